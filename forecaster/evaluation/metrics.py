"""Forecast errors over arrays `(n, horizon)`, pooled over all values except for RMSSE. Missing actuals do not count.

To add a metric, add an entry to `METRICS`. `by_step` and `by_series` compute a metric for each step or series.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.missing import mean_of_observed, observed_only
from forecaster.domain.series import Floats

Metric = Callable[[Floats, Floats], float]


def mae(actual: Floats, predicted: Floats) -> float:
    """Return the mean absolute error, in the values' unit."""
    actual, predicted = observed_only(actual, predicted)
    return float(np.abs(actual - predicted).mean())


def rmse(actual: Floats, predicted: Floats) -> float:
    """Return the root of the mean squared error, in the values' unit."""
    actual, predicted = observed_only(actual, predicted)
    return float(np.sqrt(((actual - predicted) ** 2).mean()))


def smape(actual: Floats, predicted: Floats) -> float:
    """Return the symmetric mean absolute percentage error, 0 to 200; two zeros count as no error.

    Source: Makridakis, Spiliotis & Assimakopoulos (2020), doi:10.1016/j.ijforecast.2019.04.014, section 2.3.
    """
    actual, predicted = observed_only(actual, predicted)
    size = np.abs(actual) + np.abs(predicted)
    ratio = np.divide(np.abs(actual - predicted), size, out=np.zeros_like(size), where=size > 0)
    return float(200 * ratio.mean())


def bias(actual: Floats, predicted: Floats) -> float:
    """Return the mean error, predicted minus actual: above 0 if forecasts are too high."""
    actual, predicted = observed_only(actual, predicted)
    return float((predicted - actual).mean())


def _observed(values: Floats) -> Floats:
    return values[~np.isnan(values)]


METRICS: dict[str, Metric] = {"mae": mae, "rmse": rmse, "smape": smape, "bias": bias}


def relative_mae(actual: Floats, predicted: Floats, baseline: Floats) -> float:
    """Return MAE divided by the baseline's MAE; 1 if both are 0, infinite if only the baseline's is 0."""
    ours, theirs = mae(actual, predicted), mae(actual, baseline)
    if theirs == 0:
        return 1.0 if ours == 0 else float("inf")
    return ours / theirs


def naive_scale(history: Floats, season_length: int = 1) -> float:
    """Return the in-sample MAE of the seasonal naive forecast of a series `(rows,)`, the scale of MASE."""
    return float(_observed(np.abs(history[season_length:] - history[:-season_length])).mean())


def squared_naive_scale(history: Floats, season_length: int = 1) -> float:
    """Return the in-sample mean squared error of the seasonal naive forecast of a series, the scale of RMSSE."""
    return float(_observed((history[season_length:] - history[:-season_length]) ** 2).mean())


def mase(actual: Floats, predicted: Floats, scale: Floats | float) -> float:
    """Return the mean absolute scaled error.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`.
        scale: the `naive_scale` of each row's series, `(n,)` or `(n, 1)`, or a common scale. With a scale of 0, an
            error of 0 counts as 0 and any other error as infinite.

    Source: Hyndman & Koehler (2006), doi:10.1016/j.ijforecast.2006.03.001, equation 3.
    """
    return float(_ratio(np.abs(actual - predicted), scale)[~np.isnan(actual)].mean())


def rmsse(
    actual: Floats, predicted: Floats, squared_scale: Floats | float, owners: NDArray[np.int64] | None = None
) -> float:
    """Return the root mean squared scaled error, the unweighted mean over series.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`.
        squared_scale: the `squared_naive_scale` of each row's series, `(n,)` or `(n, 1)`, or a common scale; a scale of
            0 is handled as in `mase`.
        owners: the series of each row, `(n,)`; None if all rows belong to one series.

    Source: Makridakis, Spiliotis & Assimakopoulos (2022), doi:10.1016/j.ijforecast.2021.07.007, equation 1 for one
    series. The M5 competition weights the mean over series; this mean is unweighted.
    """
    by_row = mean_of_observed(_ratio((actual - predicted) ** 2, squared_scale))
    series = np.zeros(len(by_row), dtype=np.int64) if owners is None else np.unique(owners, return_inverse=True)[1]
    return float(np.sqrt(np.bincount(series, by_row) / np.bincount(series)).mean())


def by_step(metric: Callable[..., float], actual: Floats, *forecasts: Floats) -> list[float]:
    """Return the metric of each step; `forecasts` are a mean, quantiles, or both bounds of an interval."""
    return [metric(*(array[:, [step]] for array in (actual, *forecasts))) for step in range(actual.shape[1])]


def by_series(
    metric: Metric, actual: Floats, predicted: Floats, owners: NDArray[np.int64], unique_ids: Sequence[str]
) -> dict[str, float]:
    """Return the metric of each series that has rows; `owners` `(n,)` are positions in `unique_ids`."""
    order = np.argsort(owners, kind="stable")
    present, starts = np.unique(owners[order], return_index=True)
    groups = np.split(order, starts[1:])
    return {
        unique_ids[owner]: metric(actual[rows], predicted[rows]) for owner, rows in zip(present, groups, strict=True)
    }


def _ratio(errors: Floats, scale: Floats | float) -> Floats:
    whole = np.broadcast_to(np.asarray(scale, dtype=np.float64).reshape(-1, 1), errors.shape)
    unscaled = np.where(errors == 0, 0.0, np.where(np.isnan(errors), np.nan, np.inf))
    return np.divide(errors, whole, out=unscaled, where=whole > 0)
