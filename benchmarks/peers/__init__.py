"""Scripts that run in the peers' own environment. They import nothing from this project."""
