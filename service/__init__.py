"""The HTTP service: serves forecasts of registered models from a local cache, without importing MLflow or Keras."""
