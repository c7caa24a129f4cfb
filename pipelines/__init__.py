"""Commands: each reads a configuration, does one job, and prints one JSON object as its last line."""
