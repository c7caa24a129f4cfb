"""Benchmarks behind the README's figures on accuracy and speed: `python -m benchmarks.NAME`."""
