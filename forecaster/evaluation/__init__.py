"""Metrics, baselines, tests and conformal intervals, as pure functions of arrays."""
