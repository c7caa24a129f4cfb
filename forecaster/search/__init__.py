"""Search for a recipe: Optuna tries values for the keys of a recipe, and the validation part decides."""
