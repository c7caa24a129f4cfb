"""Choose a recipe by validation, for `model: auto`."""

from forecaster.training.auto.choice import Choice
from forecaster.training.auto.choose import choose_recipe

__all__ = ["Choice", "choose_recipe"]
