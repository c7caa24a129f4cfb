"""Data preparation: sources, the bar store, the long frame's validation, transforms and windows."""
