"""Command-line pipelines. Each reads its configuration, does one job, and prints a JSON object as its last line."""
