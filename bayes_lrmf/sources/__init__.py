"""Results as the tools that produced them wrote them, read into tables of responses."""
