"""The HTTP service: forecasts of registered models, from a cache, without MLflow or Keras in the process."""
