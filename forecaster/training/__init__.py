"""Train a recipe and register the result: fit, evaluation, leakage audit, export, and MLflow tracking."""
