"""Adaptive conformal inference: the level that is asked for moves with what was covered so far.

Source: Gibbs & Candès (2021), arXiv 2106.00170, equation 2, per series and horizon step. An outcome is learnt from only
once its time has come.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import Calibration

# the step size of the paper's section 4
RATE = 0.005


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
    missed = 1 - level / 100
    wanted = np.full((int(owners.max()) + 1, horizon), missed)
    low, high = np.empty_like(mean), np.empty_like(mean)
    pending: dict[int, NDArray[np.int64]] = {}
    lags = -(-np.arange(1, horizon + 1) // step_size)
    for number, calibration in enumerate(calibrations):
        for step, lag in enumerate(lags):
            due = pending.get(number - int(lag))
            if due is not None and len(due):
                is_missed = (actual[due, step] < low[due, step]) | (actual[due, step] > high[due, step])
                wanted[owners[due], step] += RATE * (missed - is_missed)
        rows = np.arange(*np.searchsorted(numbers, [number, number + 1]))
        pending[number] = rows
        below, above = _edges(calibration, wanted[owners[rows]])
        low[rows], high[rows] = mean[rows] + units[rows] * below, mean[rows] + units[rows] * above
    return low, high


def _edges(calibration: Calibration, missed: Floats) -> tuple[Floats, Floats]:
    """Return residual quantiles `(n, horizon)` for each window's and step's own share of misses."""
    least = calibration.probabilities[0]
    tail = np.clip(missed / 2, least, 0.5)
    grids = calibration.residuals
    below = [np.interp(tail[:, step], calibration.probabilities, grids[step]) for step in range(len(grids))]
    above = [np.interp(1 - tail[:, step], calibration.probabilities, grids[step]) for step in range(len(grids))]
    return np.stack(below, axis=1), np.stack(above, axis=1)
