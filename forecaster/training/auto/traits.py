"""What the train part of the data is like, as far as it matters for the choice of a recipe."""

import math
from dataclasses import dataclass

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.frequency import Frequency, parse
from forecaster.domain.series import Series
from forecaster.evaluation.seasons import find_season, natural_seasons
from forecaster.training.config import TrainConfig, get_sessions

# the season is sought in this many windows and series
_WINDOWS, _SERIES = 4000, 64
# a series may fall below its least value so far: `log` is only tried if that is above this share of the mean
_LEAST_SHARE = 0.1
# the length of a segment where there is no season
_SEGMENT = 8


@dataclass(frozen=True)
class Traits:
    """What the train part is like.

    Args:
        n_windows: its windows.
        n_series: its series.
        input_size: rows of input.
        horizon: rows of forecast.
        season: the rows of what may be a season, shorter than a window; None if nothing repeats.
        is_positive: whether its values are well above 0, and those of later rows at least above 0.
        segment: the rows of a segment: a divisor of `input_size` and `horizon`, near the season; None if there is none.
    """

    n_windows: int
    n_series: int
    input_size: int
    horizon: int
    season: int | None
    is_positive: bool
    segment: int | None

    def __str__(self) -> str:
        season = f"perhaps a season of {self.season} rows" if self.season else "no season within a window"
        sign = "well above 0" if self.is_positive else "not well above 0"
        return (
            f"{self.n_windows} train windows of {self.input_size} + {self.horizon} rows, {self.n_series} series, "
            f"{season}, values {sign}"
        )


def describe(config: TrainConfig, series: Series, train: Windows) -> Traits:
    """Return the traits of the train part.

    Of later rows, only whether `log` is defined there counts, without which no recipe could be evaluated.
    """
    owners = np.unique(train.owners)
    few = np.unique(np.linspace(0, len(train.first) - 1, _SERIES).astype(np.int64))
    rows = [train.values[_rows(train, number), 0] for number in few]
    sample = np.unique(np.linspace(0, len(train) - 1, _WINDOWS).astype(np.int64))
    natural = natural_seasons(Frequency(1, "B") if get_sessions(config) else parse(series.freq))
    season = find_season(train.inputs(sample).target, train.targets(sample), rows, natural)
    every = np.concatenate([train.values[_rows(train, number), 0] for number in range(len(train.first))])
    least, mean = float(np.nanmin(every)), float(np.nanmean(every))
    is_positive = least > _LEAST_SHARE * mean > 0 and bool(np.nanmin(series.values[:, 0]) > 0)
    segment = _segment(config.input_size, config.horizon, season)
    return Traits(len(train), len(owners), config.input_size, config.horizon, season, is_positive, segment)


def _rows(windows: Windows, number: int) -> slice:
    """Return the rows of a stretch."""
    first, count = int(windows.first[number]), int(windows.counts[number])
    return slice(first, first + (count - 1) * windows.step_size + windows.input_size + windows.horizon)


def _segment(input_size: int, horizon: int, season: int | None) -> int | None:
    """Return the common divisor of both lengths that is nearest to the season, with two segments of input or more."""
    common = math.gcd(input_size, horizon)
    divisors = [length for length in range(2, common + 1) if common % length == 0 and input_size >= 2 * length]
    wanted = math.log(season or _SEGMENT)
    return min(divisors, key=lambda length: abs(math.log(length) - wanted), default=None)
