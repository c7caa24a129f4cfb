"""The values that a search tries for a key of a recipe."""

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from forecaster.domain.config import Config

if TYPE_CHECKING:
    import optuna


Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)]


class Range(Config):
    """Numbers from `low` to `high`; whole numbers if both are.

    Args:
        low: the smallest.
        high: the largest.
        log: whether each order of magnitude is as likely as the others.
    """

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low and high: low must be less than {self.high}, got {self.low}")
        if self.log and self.low <= 0:
            raise ValueError(f"low and log: a logarithmic range must begin above 0, got {self.low}")
        return self

    @property
    def largest(self) -> Any:
        """Return the largest value."""
        return self.high

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        """Return the value of a trial for `key`."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


class Choices(Config):
    """A few values of any kind."""

    choices: tuple[Any, ...] = Field(min_length=2, max_length=1000)

    @property
    def largest(self) -> Any:
        """Return the largest value; the values must be numbers."""
        return max(self.choices)

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        """Return the value of a trial for `key`."""
        # as JSON, because Optuna takes no lists and mappings
        return json.loads(trial.suggest_categorical(key, [json.dumps(choice) for choice in self.choices]))


def _kind(raw: Any) -> str:
    return "choices" if isinstance(raw, Choices) or (isinstance(raw, dict) and "choices" in raw) else "range"


# `[8, 16]` is short for `{choices: [8, 16]}`
Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(_kind),
    BeforeValidator(lambda raw: {"choices": raw} if isinstance(raw, list | tuple) else raw),
]
Space = dict[str, Dimension]
