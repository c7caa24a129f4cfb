"""A served model, and what its requests share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from forecaster.inference.answers import Head, describe_version
from forecaster.inference.forecasting import Forecaster
from forecaster.registry.bands import Bands
from forecaster.registry.cache import ModelIndex
from forecaster.registry.predictor import ArrayPredictor
from service.timestamps import End, Upcoming

# how many forecasters, heads and times of forecasts a model keeps
_MAX_KEPT = 256
# longer forecasts' times would take too much memory
_MAX_KEPT_STEPS = 200


@dataclass(frozen=True)
class Model:
    """A served model: its index (aliases and run ids) and a predictor for each version.

    It keeps what its last requests needed, because computing it takes longer than a forecast. The caches end with the
    model, so they keep no version in memory that is no longer served.
    """

    name: str
    index: ModelIndex
    predictors: Mapping[int, ArrayPredictor]
    _forecasters: Callable[..., Forecaster] = field(init=False, repr=False, compare=False)
    _upcoming: Callable[..., Upcoming] = field(init=False, repr=False, compare=False)
    _heads: Callable[..., Head] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Create the caches."""
        # functions of parts and not of the model, which would keep itself in memory until a garbage collection
        predictors, name, runs = self.predictors, self.name, self.index.runs

        def forecaster(version: int, *settings: Any) -> Forecaster:
            return Forecaster(predictors[version], *settings)

        def upcoming(version: int, end: End, steps: int) -> Upcoming:
            return end.upcoming(predictors[version].frequency, steps)

        def head(version: int, alias: str | None, forecaster: Forecaster) -> Head:
            return describe_version(forecaster, name, version, alias, runs[version])

        caches: dict[str, Callable[..., Any]] = {"_forecasters": forecaster, "_upcoming": upcoming, "_heads": head}
        for attribute, function in caches.items():
            object.__setattr__(self, attribute, lru_cache(_MAX_KEPT)(function))

    def forecaster(
        self,
        version: int,
        horizon: int,
        bands: Bands,
        without_skill: str,
        n_samples: int | None = None,
        seed: int = 0,
    ) -> Forecaster:
        """Return a version with a request's settings.

        Raises:
            RequestError: as for `Forecaster`.
        """
        return self._forecasters(version, horizon, bands, without_skill, n_samples, seed)

    def upcoming(self, version: int, end: End, steps: int) -> Upcoming:
        """Return the timestamps of a version's forecast for a series.

        Raises:
            CalendarError: the exchange's calendar ends before the last step.
        """
        if steps > _MAX_KEPT_STEPS:
            return end.upcoming(self.predictors[version].frequency, steps)
        return self._upcoming(version, end, steps)

    def head(self, version: int, alias: str | None, forecaster: Forecaster, warnings: Sequence[str] = ()) -> Head:
        """Return the head of an answer, with more warnings if the request causes some."""
        if warnings:
            return describe_version(forecaster, self.name, version, alias, self.index.runs[version], warnings)
        return self._heads(version, alias, forecaster)
