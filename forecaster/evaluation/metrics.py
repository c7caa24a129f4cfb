"""Forecast errors over arrays `(n, horizon)`, pooled but for RMSSE. A new one is an entry in `METRICS`.

A metric per step is the metric of one column, per series that of its rows: `by_step`, `by_series`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats

Metric = Callable[[Floats, Floats], float]


def mae(actual: Floats, predicted: Floats) -> float:
    """Return the mean absolute error, in the values' unit."""
    return float(np.abs(actual - predicted).mean())


def rmse(actual: Floats, predicted: Floats) -> float:
    """Return the root of the mean squared error, in the values' unit."""
    return float(np.sqrt(((actual - predicted) ** 2).mean()))


def smape(actual: Floats, predicted: Floats) -> float:
    """Return the symmetric mean absolute percentage error, 0 to 200; two zeros count as no error.

    Source: Makridakis, Spiliotis & Assimakopoulos (2020), doi:10.1016/j.ijforecast.2019.04.014, section 2.3.
    """
    size = np.abs(actual) + np.abs(predicted)
    ratio = np.divide(np.abs(actual - predicted), size, out=np.zeros_like(size), where=size > 0)
    return float(200 * ratio.mean())


def bias(actual: Floats, predicted: Floats) -> float:
    """Return the mean error, predicted less actual: above 0 where forecasts are too high."""
    return float((predicted - actual).mean())


METRICS: dict[str, Metric] = {"mae": mae, "rmse": rmse, "smape": smape, "bias": bias}


def relative_mae(actual: Floats, predicted: Floats, baseline: Floats) -> float:
    """Return the MAE over the baseline's on the same rows; 1 where both are perfect, infinite where only it is."""
    ours, theirs = mae(actual, predicted), mae(actual, baseline)
    if theirs == 0:
        return 1.0 if ours == 0 else float("inf")
    return ours / theirs


def naive_scale(history: Floats, season_length: int = 1) -> float:
    """Return the in-sample MAE of the seasonal naive forecast of one series `(rows,)`: the scale of its MASE."""
    return float(np.abs(history[season_length:] - history[:-season_length]).mean())


def squared_naive_scale(history: Floats, season_length: int = 1) -> float:
    """Return the in-sample mean squared error of the same forecast: the scale of a series' RMSSE."""
    return float(((history[season_length:] - history[:-season_length]) ** 2).mean())


def mase(actual: Floats, predicted: Floats, scale: Floats | float) -> float:
    """Return the mean of absolute errors, each over its series' `naive_scale`.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`.
        scale: of each row's series, `(n,)` or `(n, 1)`, or of all. Where it is 0, no error counts 0 and any other is
            infinite.

    Source: Hyndman & Koehler (2006), doi:10.1016/j.ijforecast.2006.03.001, equation 3.
    """
    return float(_ratio(np.abs(actual - predicted), scale).mean())


def rmsse(
    actual: Floats, predicted: Floats, squared_scale: Floats | float, owners: NDArray[np.int64] | None = None
) -> float:
    """Return the mean over series of the root of each one's mean squared error over its `squared_naive_scale`.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`.
        squared_scale: of each row's series, `(n,)` or `(n, 1)`, or of all; where it is 0, as `mase` says.
        owners: the series of each row, `(n,)`; None where all rows are of one series.

    Source: Makridakis, Spiliotis & Assimakopoulos (2022), doi:10.1016/j.ijforecast.2021.07.007, equation 1, which is
    of one series; the mean over series is that of the M5 competition without its weights.
    """
    each = _ratio((actual - predicted) ** 2, squared_scale).mean(axis=1)
    of_series = np.zeros(len(each), dtype=np.int64) if owners is None else np.unique(owners, return_inverse=True)[1]
    return float(np.sqrt(np.bincount(of_series, each) / np.bincount(of_series)).mean())


def by_step(metric: Callable[..., float], actual: Floats, *forecasts: Floats) -> list[float]:
    """Return the metric of each step of the horizon: of a mean, of quantiles, or of both bounds of an interval."""
    return [metric(*(one[:, [step]] for one in (actual, *forecasts))) for step in range(actual.shape[1])]


def by_series(
    metric: Metric, actual: Floats, predicted: Floats, owners: NDArray[np.int64], unique_ids: Sequence[str]
) -> dict[str, float]:
    """Return the metric of each series that owns rows; `owners` `(n,)` are positions in `unique_ids`."""
    order = np.argsort(owners, kind="stable")
    found, starts = np.unique(owners[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {unique_ids[one]: metric(actual[own], predicted[own]) for one, own in zip(found, rows, strict=True)}


def _ratio(errors: Floats, scale: Floats | float) -> Floats:
    whole = np.broadcast_to(np.asarray(scale, dtype=np.float64).reshape(-1, 1), errors.shape)
    unscaled = np.where(errors == 0, 0.0, np.inf)
    return np.divide(errors, whole, out=unscaled, where=whole > 0)
