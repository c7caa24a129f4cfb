"""One file for each migration, applied in the order of their numbers."""
