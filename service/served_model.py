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


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    return lru_cache(_MAX_KEPT)(function)


def _find_upcoming(predictor: ArrayPredictor, end: End, steps: int) -> Upcoming:
    # cached by predictor, because the hash of an exchange's sessions takes as long as finding the times
    return end.upcoming(predictor.frequency, steps)


@dataclass(frozen=True)
class Model:
    """A served model: its index (aliases and run ids) and a predictor for each version.

    It keeps what its last requests needed, because computing it takes longer than a forecast. The caches end with the
    model, so they keep no version in memory that is no longer served.
    """

    name: str
    index: ModelIndex
    predictors: Mapping[int, ArrayPredictor]
    _forecasters: Callable[..., Forecaster] = field(default_factory=lambda: _cached(Forecaster), init=False, repr=False)
    _upcoming: Callable[..., Upcoming] = field(default_factory=lambda: _cached(_find_upcoming), init=False, repr=False)
    _heads: Callable[..., Head] = field(default_factory=lambda: _cached(describe_version), init=False, repr=False)

    def forecaster(
        self, version: int, horizon: int, bands: Bands, without_skill: str, n_samples: int | None, seed: int
    ) -> Forecaster:
        """Return a version with a request's settings.

        Raises:
            RequestError: as for `Forecaster`.
        """
        return self._forecasters(self.predictors[version], horizon, bands, without_skill, n_samples, seed)

    def upcoming(self, version: int, end: End, steps: int) -> Upcoming:
        """Return the timestamps of a version's forecast for a series.

        Raises:
            CalendarError: the exchange's calendar ends before the last step.
        """
        find = self._upcoming if steps <= _MAX_KEPT_STEPS else _find_upcoming
        return find(self.predictors[version], end, steps)

    def head(self, version: int, alias: str | None, forecaster: Forecaster, warnings: Sequence[str] = ()) -> Head:
        """Return the head of an answer, with more warnings if the request causes some."""
        known = forecaster, self.name, version, alias, self.index.runs[version]
        return describe_version(*known, warnings) if warnings else self._heads(*known)
