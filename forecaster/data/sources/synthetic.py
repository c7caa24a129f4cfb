"""Synthetic series from a seed: sums of sines, and geometric random walks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError
from forecaster.domain.frequency import parse
from forecaster.domain.series import DS, FIRST_TIME, LAST_TIME, UNIQUE_ID, Floats, Times, Y

# 800 MB of numbers
MAX_ROWS = 100_000_000


class Sine(Config):
    """A sine `amplitude * sin(2π (t / period + phase))`, where `t` counts rows.

    A range `[low, high]` instead of a number draws a value for each series uniformly; for `period`, the frequency is
    uniform.
    """

    amplitude: float | tuple[float, float] = 1.0
    period: float | tuple[float, float] = 50.0
    phase: float | tuple[float, float] = 0.0

    @field_validator("period")
    @classmethod
    def _is_positive(cls, period: float | tuple[float, float]) -> float | tuple[float, float]:
        if np.min(period) <= 0:
            raise ValueError("period must be above 0")
        return period


class _SyntheticSource(Config):
    """What the synthetic sources share: size, times, names and seed."""

    source: str
    n_series: int = Field(1, ge=1, le=MAX_ROWS)
    length: int = Field(2000, ge=1, le=MAX_ROWS)
    start: datetime
    freq: str
    unique_id: str
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("freq")
    @classmethod
    def _is_known(cls, freq: str) -> str:
        try:
            return str(parse(freq))
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @property
    def location(self) -> str:
        """Return the name of the source."""
        return self.source

    def adjusted(self, exogenous: Sequence[str] = ()) -> tuple[str, ...]:
        """Return no column, because none leaks later dividends."""
        return ()

    def load(self, exogenous: Sequence[str] = (), stat_exog: Sequence[str] = ()) -> pd.DataFrame:
        """Return the series as a long frame of `n_series * length` rows, reproducible by the seed.

        Raises:
            ConfigError: exogenous columns are requested, there are too many rows, or a time is out of range.
        """
        if exogenous or stat_exog:
            raise ConfigError(
                f"{'hist_exog, futr_exog' if exogenous else 'stat_exog'}: source {self.source} has no columns "
                f"{list(exogenous or stat_exog)}; remove them"
            )
        if self.n_series * self.length > MAX_ROWS:
            raise ConfigError(
                f"data: {self.n_series} series of {self.length} rows exceed {MAX_ROWS} rows; lower n_series or length"
            )
        y = self._values(np.random.default_rng(self.seed))
        return _long_frame(y, self.unique_id, _times(self.start, self.freq, self.length))

    def _values(self, random: np.random.Generator) -> Floats:
        """Return the values, `(n_series, length)`."""
        raise NotImplementedError


class SineSource(_SyntheticSource):
    """Sums of sines with a level, a trend per row, and noise with the standard deviation `noise`."""

    source: Literal["sine"] = "sine"
    sines: tuple[Sine, ...] = (Sine(),)
    level: float = 0.0
    trend: float = 0.0
    noise: float = Field(0.1, ge=0)
    noise_kind: Literal["normal", "uniform"] = "normal"
    start: datetime = datetime(2020, 1, 1)
    freq: str = "h"
    unique_id: str = "sine"

    def _values(self, random: np.random.Generator) -> Floats:
        t = np.arange(self.length, dtype=np.float64)
        y = np.tile(self.level + self.trend * t, (self.n_series, 1))
        for sine in self.sines:
            amplitude, phase = _draw(sine.amplitude, random, self.n_series), _draw(sine.phase, random, self.n_series)
            frequency = _draw(_inverted(sine.period), random, self.n_series)
            y += amplitude * np.sin(2 * np.pi * (t * frequency + phase))
        if self.noise_kind == "uniform":
            y += random.uniform(-1, 1, y.shape) * self.noise * np.sqrt(3)
        else:
            y += random.normal(0, self.noise, y.shape)
        return y


class RandomWalkSource(_SyntheticSource):
    """Geometric random walks; `drift` and `volatility` are those of the log returns per row."""

    source: Literal["random_walk"] = "random_walk"
    first_price: float = Field(100.0, gt=0)
    drift: float = 0.0002
    volatility: float = Field(0.01, ge=0)
    start: datetime = datetime(2018, 1, 1)
    freq: str = "B"
    unique_id: str = "walk"

    def _values(self, random: np.random.Generator) -> Floats:
        returns = random.normal(self.drift, self.volatility, (self.n_series, self.length))
        returns[:, 0] = 0.0
        return np.asarray(self.first_price * np.exp(np.cumsum(returns, axis=1)))


def _inverted(period: float | tuple[float, float]) -> float | tuple[float, float]:
    return (1 / period[1], 1 / period[0]) if isinstance(period, tuple) else 1 / period


def _draw(number: float | tuple[float, float], random: np.random.Generator, n_series: int) -> Floats:
    low, high = number if isinstance(number, tuple) else (number, number)
    return random.uniform(low, high, (n_series, 1))


def _times(start: datetime, freq: str, length: int) -> Times:
    frequency = parse(freq)
    first = np.datetime64(start.replace(tzinfo=None), "us")
    if first < FIRST_TIME:
        raise ConfigError(f"data.start: {start} is before {FIRST_TIME}; set a later start")
    # start on the grid of the frequency: on a weekday, or on a month's first or last day
    if frequency.unit == "B":
        first = np.busday_offset(first.astype("M8[D]"), 0, roll="forward").astype("M8[us]")
    elif frequency.unit in ("MS", "ME"):
        first = frequency.after(first, 1)[0]
    # computed in seconds, because nanoseconds overflow silently
    seconds = first.astype("M8[s]")
    times = np.concatenate(([seconds], frequency.after(seconds, length - 1)))
    if times[-1] > LAST_TIME:
        raise ConfigError(f"data.length: {length} steps of {freq} from {seconds} end after {LAST_TIME}; lower length")
    return times.astype("M8[ns]")


def _long_frame(y: Floats, unique_id: str, times: Times) -> pd.DataFrame:
    n_series, length = y.shape
    width = len(str(n_series - 1))
    names = [unique_id] if n_series == 1 else [f"{unique_id}-{number:0{width}d}" for number in range(n_series)]
    # as objects, so that the rows of a series share one string
    return pd.DataFrame(
        {UNIQUE_ID: np.repeat(np.array(names, dtype=object), length), DS: np.tile(times, n_series), Y: y.ravel()}
    )
