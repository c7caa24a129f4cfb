"""Adaptive conformal inference: the level that is asked for moves with what was covered so far.

Source: Gibbs & Candès (2021), arXiv 2106.00170, equation 2, per series and horizon step. An outcome is learnt from only
once its time has come.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import ADAPTION_RATE, Calibration


def adaptive_bands(
    calibrations: Sequence[Calibration],
    actual: Floats,
    mean: Floats,
    units: Floats,
    level: float,
    numbers: NDArray[np.int64],
    owners: NDArray[np.int64],
    step_size: int,
) -> tuple[Floats, Floats]:
    """Return intervals' bounds `(n, horizon)`, each from what was known at its cutoff.

    Args:
        calibrations: the residuals' quantiles at each cutoff.
        actual: `(n, horizon)`.
        mean: `(n, horizon)`.
        units: of each window, `(n, 1)`.
        level: 0–100.
        numbers: each window's cutoff, counted from 0 and increasing, `(n,)`.
        owners: each window's series, `(n,)`.
        step_size: rows from one cutoff to the next.
    """
    horizon = actual.shape[1]
    share = 1 - level / 100
    wanted = np.full((int(owners.max()) + 1, horizon), share)
    low, high = np.empty_like(mean), np.empty_like(mean)
    # by cutoff: the series that it forecast, and how far from the wanted share each outcome will turn out
    pending: list[tuple[NDArray[np.int64], Floats]] = []
    lags = -(-np.arange(1, horizon + 1) // step_size)
    borders = np.searchsorted(numbers, np.arange(len(calibrations) + 1))
    for number, calibration in enumerate(calibrations):
        for step, lag in enumerate(lags):
            if lag <= number:
                due, surprise = pending[number - lag]
                wanted[due, step] += ADAPTION_RATE * surprise[:, step]
        rows = slice(borders[number], borders[number + 1])
        below, above = _edges(calibration, wanted[owners[rows]])
        low[rows], high[rows] = mean[rows] + units[rows] * below, mean[rows] + units[rows] * above
        is_missed = (actual[rows] < low[rows]) | (actual[rows] > high[rows])
        pending.append((owners[rows], np.asarray(share - is_missed, dtype=np.float64)))
    return low, high


def _edges(calibration: Calibration, missed: Floats) -> tuple[Floats, Floats]:
    """Return residual quantiles `(n, horizon)` for each window's and step's own share of misses."""
    tail = np.clip(missed / 2, calibration.probabilities[0], 0.5)
    return calibration.residuals_at(tail), calibration.residuals_at(1 - tail)
