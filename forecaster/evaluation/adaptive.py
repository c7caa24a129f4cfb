"""Adaptive conformal inference: the share of misses that is allowed moves with what was covered so far.

Source: Gibbs & Candès (2021), arXiv 2106.00170, equation 2, per series and horizon step. Without clipping its sum is a
matter of counts: the share allowed now is α + γ·(n·α − misses). γ is in proportion to α, so that a rare miss of a wide
interval moves it no more, relative to its share, than a frequent one moves a narrow interval.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.levels import bound_probabilities, miscoverage_rate
from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import Calibration

# γ of a share of misses of 1: with 20 %, twice what section 4 of the source takes
RATE = 0.05
# of misses: an interval is never wider than its calibration knows, nor none at all
_LEAST, _MOST = 0.001, 0.9
Bands = dict[int, tuple[Floats, Floats]]


def allowed_shares(levels: Sequence[float], surplus: Floats) -> Floats:
    """Return the share of misses that is allowed now.

    Args:
        levels: 0–100.
        surplus: misses that were allowed so far less those that were, `(…, levels)`.
    """
    return np.clip(_shares(levels) * (1 + RATE * surplus), _LEAST, _MOST)


def adapted_tails(probabilities: Sequence[float], levels: Sequence[float], allowed: Floats) -> Floats:
    """Return the probabilities to look up for those that were asked for, `(n, steps, len(probabilities))`.

    Between levels the shares of misses are interpolated, and a wider level is allowed no more than a narrower one, so
    intervals never cross.

    Args:
        probabilities: 0–1.
        levels: 0–100, in any order.
        allowed: `(n, steps, levels)`, as `allowed_shares` returns them.
    """
    shares = _shares(levels)
    order = np.argsort(-shares)
    moved = np.minimum.accumulate(allowed[:, :, order], axis=2)[:, :, ::-1]
    ends = np.zeros((*moved.shape[:2], 1))
    known, moved = np.array([0.0, *shares[order][::-1], 1.0]), np.concatenate([ends, moved, ends + 1], axis=2)
    asked = 2 * np.minimum(probabilities, 1 - np.asarray(probabilities))
    right = np.clip(np.searchsorted(known, asked), 1, len(known) - 1)
    weight = (asked - known[right - 1]) / (known[right] - known[right - 1])
    tails = (moved[:, :, right - 1] + weight * (moved[:, :, right] - moved[:, :, right - 1])) / 2
    return np.asarray(np.where(np.asarray(probabilities) <= 0.5, tails, 1 - tails))


def adaptive_bands(
    calibrations: Sequence[Calibration],
    actual: Floats,
    mean: Floats,
    units: Floats,
    levels: Sequence[int],
    numbers: NDArray[np.int64],
    owners: NDArray[np.int64],
    step_size: int = 1,
) -> Bands:
    """Return each level's bounds, `(n, horizon)` each, from what was known at each window's cutoff.

    An outcome is learnt from only once its time has come.

    Args:
        calibrations: the residuals' quantiles at each cutoff.
        actual: `(n, horizon)`.
        mean: `(n, horizon)`.
        units: of each window, `(n, 1)`.
        levels: 0–100.
        numbers: each window's cutoff, counted from 0 and increasing, `(n,)`.
        owners: each window's series, `(n,)`.
        step_size: rows from one cutoff to the next.
    """
    n, horizon = actual.shape
    edges = bound_probabilities(levels)
    shares = _shares(levels)
    surplus = np.zeros((int(owners.max()) + 1, horizon, len(levels)))
    bounds = np.empty((n, horizon, len(edges)))
    # by cutoff: the series that it forecast, and how far from the wanted share each outcome will turn out
    pending: list[tuple[NDArray[np.int64], Floats]] = []
    lags = -(-np.arange(1, horizon + 1) // step_size)
    borders = np.searchsorted(numbers, np.arange(len(calibrations) + 1))
    for number, calibration in enumerate(calibrations):
        for step, lag in enumerate(lags):
            if lag <= number:
                due, surprise = pending[number - lag]
                surplus[due, step] += surprise[:, step]
        rows = slice(borders[number], borders[number + 1])
        tails = adapted_tails(edges, levels, allowed_shares(levels, surplus[owners[rows]]))
        bounds[rows] = mean[rows, :, None] + units[rows, :, None] * calibration.residuals_at(tails)
        truth, of_rows = actual[rows, :, None], bounds[rows]
        is_missed = (truth < of_rows[:, :, ::2]) | (truth > of_rows[:, :, 1::2])
        pending.append((owners[rows], np.asarray(shares - is_missed)))
    return {level: (bounds[:, :, 2 * at], bounds[:, :, 2 * at + 1]) for at, level in enumerate(levels)}


def _shares(levels: Sequence[float]) -> Floats:
    return np.array([miscoverage_rate(level) for level in levels])
