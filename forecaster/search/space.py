"""The values that a search tries for a key of a recipe."""

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

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
    def bounds(self) -> Sequence[Any]:
        """Return values among which the smallest and the largest are."""
        return self.low, self.high

    @property
    def parameters(self) -> Sequence[Any] | None:
        """Return all values as Optuna keeps them; None if there is no end of them."""
        return range(self.low, self.high + 1) if isinstance(self.low, int) and isinstance(self.high, int) else None

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        """Return the value of a trial for `key`."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


class Choices(Config):
    """A few values of any kind."""

    choices: tuple[Any, ...] = Field(min_length=2, max_length=1000)

    @field_validator("choices")
    @classmethod
    def _can_be_written(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        for choice in choices:
            try:
                json.dumps(choice, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{choice} is neither a number nor text, a list or a mapping of them; put it in quotes or remove it"
                ) from error
        return choices

    @property
    def bounds(self) -> Sequence[Any]:
        """Return values among which the smallest and the largest are."""
        return self.choices

    @property
    def parameters(self) -> Sequence[Any]:
        """Return all values as Optuna keeps them: as JSON, because it takes no lists and mappings."""
        return [json.dumps(choice) for choice in self.choices]

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        """Return the value of a trial for `key`."""
        return json.loads(trial.suggest_categorical(key, self.parameters))


def _kind(raw: Any) -> str:
    return "choices" if isinstance(raw, Choices) or (isinstance(raw, dict) and "choices" in raw) else "range"


# `[8, 16]` is short for `{choices: [8, 16]}`
Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(_kind),
    BeforeValidator(lambda raw: {"choices": raw} if isinstance(raw, list | tuple) else raw),
]
Space = dict[str, Dimension]


def suggest_values(space: Space, trial: "optuna.Trial") -> dict[str, Any]:
    """Return a trial's values, by key of the recipe."""
    return {key: dimension.suggest(trial, key) for key, dimension in space.items()}


def find_untried(space: Space, tried: Collection[tuple[Any, ...]]) -> dict[str, Any] | None:
    """Return parameters that no trial has had, by key; None if all have been tried.

    Args:
        space: a space without ranges of fractions.
        tried: the parameters of each trial, in the order of the space's keys.
    """
    combinations: Iterator[tuple[Any, ...]] = itertools.product(*(each.parameters or () for each in space.values()))
    untried = next((combination for combination in combinations if combination not in tried), None)
    return None if untried is None else dict(zip(space, untried, strict=True))


def overlap(key: str, other: str) -> bool:
    """Return whether one of two dotted keys is the other, or contains it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
