"""What `analyses.fuzz` attacks readers with."""
