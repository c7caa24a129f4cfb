"""Backtests: forecast with a recipe at many past cutoffs, and compare it with baselines."""
