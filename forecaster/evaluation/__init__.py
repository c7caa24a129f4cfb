"""Pure functions over arrays: metrics, baselines, conformal intervals."""
