"""Results and lineages as others write and publish them, read into tables of this package."""
