"""Forecast errors over arrays `(n, horizon)`. A new metric is one entry in `METRICS`."""

from collections.abc import Callable

import numpy as np

from forecaster.domain.series import Floats


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


METRICS: dict[str, Callable[[Floats, Floats], float]] = {"mae": mae, "rmse": rmse, "smape": smape}


def relative_mae(actual: Floats, predicted: Floats, baseline: Floats) -> float:
    """Return the MAE over the baseline's on the same rows; 1 where both are perfect, infinite where only it is."""
    ours, theirs = mae(actual, predicted), mae(actual, baseline)
    if theirs == 0:
        return 1.0 if ours == 0 else float("inf")
    return ours / theirs


def mase(actual: Floats, predicted: Floats, scale: float) -> float:
    """Return the MAE over the in-sample MAE of the one-step naive forecast, `scale`; infinite where that is 0.

    Source: Hyndman & Koehler (2006), doi:10.1016/j.ijforecast.2006.03.001, equation 3.
    """
    return mae(actual, predicted) / scale if scale > 0 else float("inf")
