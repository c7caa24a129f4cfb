"""Naive forecasts as baselines. To add a baseline, add an entry to `BASELINES`."""

from collections.abc import Callable

import numpy as np

from forecaster.domain.levels import tails
from forecaster.domain.missing import last_observed
from forecaster.domain.series import Floats
from forecaster.evaluation.units import ewma

# takes inputs `(n, input_size)`, horizon and season_length
Baseline = Callable[[Floats, int, int], Floats]


def last_value(inputs: Floats, horizon: int, season_length: int = 1) -> Floats:
    """Repeat the last observed value: `(n, input_size) → (n, horizon)`, same unit, a read-only view.

    Source of all baselines here: Hyndman & Athanasopoulos (2021), Forecasting: Principles and Practice, 5.2.
    """
    return np.broadcast_to(last_observed(inputs), (len(inputs), horizon))


def seasonal_naive(inputs: Floats, horizon: int, season_length: int) -> Floats:
    """Repeat the last season, or the last value if the inputs are shorter than a season."""
    if season_length > inputs.shape[1]:
        return last_value(inputs, horizon)
    season = inputs[:, inputs.shape[1] - season_length :]
    return season[:, np.arange(horizon) % season_length]


def drift(inputs: Floats, horizon: int, season_length: int = 1) -> Floats:
    """Extrapolate the line through the first and the last input."""
    slope = (inputs[:, -1:] - inputs[:, :1]) / (inputs.shape[1] - 1)
    return np.asarray(inputs[:, -1:] + slope * np.arange(1, horizon + 1))


def window_mean(inputs: Floats, horizon: int, season_length: int = 1) -> Floats:
    """Repeat the inputs' mean."""
    return np.broadcast_to(inputs.mean(axis=1, keepdims=True), (len(inputs), horizon))


def random_walk_bands(inputs: Floats, horizon: int, level: float) -> tuple[Floats, Floats]:
    """Return the bounds `(n, horizon)` of a Gaussian random walk with each window's volatility.

    The standard deviation grows with the square root of the step. Source: J.P. Morgan/Reuters (1996), RiskMetrics
    Technical Document, sections 4.2 and 5.2.
    """
    from scipy import stats

    reach = stats.norm.ppf(tails(level)[1]) * ewma(inputs) * np.sqrt(np.arange(1, horizon + 1))
    return np.asarray(inputs[:, -1:] - reach), np.asarray(inputs[:, -1:] + reach)


BASELINES: dict[str, Baseline] = {
    "naive": last_value,
    "seasonal_naive": seasonal_naive,
    "drift": drift,
    "window_mean": window_mean,
}
