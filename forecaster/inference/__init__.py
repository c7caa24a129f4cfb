"""Forecasts with intervals from input windows: one implementation for HTTP, batches and Python."""
