"""Results and lineages as others publish them, read into tables of this package."""
