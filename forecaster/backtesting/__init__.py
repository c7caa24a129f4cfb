"""A recipe tried at many past cutoffs, beside baselines."""
