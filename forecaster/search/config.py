"""What a search tries, and the keys of a recipe that it may not change."""

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from forecaster.data.transforms import MeanStd
from forecaster.domain.config import Config, with_values
from forecaster.domain.errors import ConfigError
from forecaster.search.space import Space, overlap, suggest_values
from forecaster.training.config import TrainConfig

# keys that change what a trial is measured on, or that a trial does not use
_FIXED = (
    "data", "folds", "freq", "horizon", "intervals", "least_rows", "missing", "name", "refit", "seed", "split",
    "support", "tracking",
)  # fmt: skip
# keys that change the unit of the validation loss, so that the losses of trials cannot be compared
_UNITS = ("transforms", "model.head")
_INPUT_SIZE = "input_size"
# combinations that are drawn to see whether the recipe accepts any
_DRAWN = 100


class SearchConfig(Config):
    """What a search tries.

    Args:
        space: for each dotted key of the recipe, a list of values, or `{low: …, high: …, log: true}`.
        trials: the number of trials.
        minutes: no trial starts after these; null for no limit.
        prune: whether a trial stops early whose validation loss is worse than the median of the trials before it, at
            the same epoch. Trials whose losses have different units are not pruned.
        storage: the URL of the database that keeps the trials, which holds nothing else.
        seed: determines the trials.
        on: where trials run: one after the other in this process (`local`), or on `ray`.
        workers: the number of trials at once on Ray; null for one per core.
        ray_address: the address of a Ray cluster, such as `10.0.0.1:6379`; null starts a local Ray.
    """

    space: Space = Field(min_length=1)
    trials: int = Field(50, ge=1, le=100_000)
    minutes: float | None = Field(None, gt=0, le=1e6)
    prune: bool = True
    storage: str = "sqlite:///mlruns/search.db"
    seed: int = Field(0, ge=0, lt=2**31)
    on: Literal["local", "ray"] = "local"
    workers: int | None = Field(None, ge=1, le=1024)
    ray_address: str | None = Field(None, pattern=r"^[^:/\s]+:\d{1,5}$")

    @field_validator("space")
    @classmethod
    def _keys_are_free(cls, space: Space) -> Space:
        for key in space:
            if key.split(".")[0] in _FIXED:
                raise ValueError(f"{key}: trials could not be compared if it changed; remove it")
        for key, other in itertools.combinations(space, 2):
            if overlap(key, other):
                raise ValueError(f"{key} and {other}: one contains the other; remove one of them")
        if _INPUT_SIZE in space and not all(type(value) is int for value in space[_INPUT_SIZE].bounds):
            raise ValueError(f"{_INPUT_SIZE}: its values must be whole numbers")
        # the order of the keys changes nothing
        return dict(sorted(space.items()))

    @model_validator(mode="after")
    def _check_ray(self) -> "SearchConfig":
        if self.on != "ray" and (self.workers or self.ray_address):
            raise ValueError("workers and ray_address: need on: ray; set that, or remove them")
        if self.ray_address and self.storage.startswith("sqlite"):
            raise ValueError(
                "ray_address and storage: machines cannot share a SQLite file; set storage: postgresql://…"
            )
        return self

    def input_sizes(self, recipe: TrainConfig) -> tuple[int, int]:
        """Return the smallest and the largest `input_size` of all trials."""
        sizes = self.space[_INPUT_SIZE].bounds if _INPUT_SIZE in self.space else [recipe.input_size]
        return min(sizes), max(sizes)

    def prunes(self, recipe: TrainConfig) -> bool:
        """Return whether trials may be pruned: their validation losses must have one unit."""
        # the deviation of a longer window is another unit
        is_scaled_by_window = any(isinstance(step, MeanStd) for step in recipe.transforms)
        units = (*_UNITS, _INPUT_SIZE) if is_scaled_by_window else _UNITS
        return self.prune and not any(overlap(key, unit) for key in self.space for unit in units)


def check_space(recipe: TrainConfig, config: SearchConfig) -> None:
    """Raise ConfigError if no trial can succeed, or if trials could not be compared."""
    import optuna

    if _INPUT_SIZE in config.space and recipe.least_rows is not None:
        raise ConfigError(
            "search.space.input_size and train.least_rows: another input_size would move the parts of the data; "
            "remove one of them"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    refusal = None
    for _ in range(_DRAWN):
        values = suggest_values(config.space, drawn.ask())
        try:
            with_values(recipe, values, "search.space")
        except ConfigError as error:
            refusal = error
        else:
            return
    raise ConfigError(f"{refusal} (none of {_DRAWN} combinations of values is accepted)")
