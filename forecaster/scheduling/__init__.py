"""Jobs on a schedule: when they are due, that each runs once, and what is said of those that fail."""
