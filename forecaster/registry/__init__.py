"""Bundles, the predictor that answers from them, and the way from MLflow's registry to a serving process's cache."""
