"""Choose a recipe by validation, for `model: auto`."""

from forecaster.training.auto.choose import Choice, choose_recipe

__all__ = ["Choice", "choose_recipe"]
