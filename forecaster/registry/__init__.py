"""Bundles, the predictor that loads them, MLflow's model registry, and the cache of a serving process."""
