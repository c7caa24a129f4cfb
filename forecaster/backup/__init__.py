"""Save everything an installation keeps into one archive, and restore it."""
