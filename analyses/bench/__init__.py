"""Fits against their peers: one table, one process each, ratios inside one run."""
