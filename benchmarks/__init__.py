"""What docs/benchmarks.md claims about accuracy and speed, each a command: `python -m benchmarks.NAME`."""
