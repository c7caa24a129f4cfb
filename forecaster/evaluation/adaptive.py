"""Adaptive conformal inference: the miscoverage rate follows the coverage so far.

Source: Gibbs & Candès (2021), arXiv 2106.00170, equation 2, for each series and horizon step. Without clipping, the
recursion has a closed form: after n outcomes the rate is α + γ·(n·α − misses). γ is proportional to α, so that a miss
changes the rates of wide and narrow intervals in about the same proportion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.levels import bound_probabilities, miscoverage_rate
from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.forecasts import Forecasts

# γ in units of α; at α = 0.2, γ is twice the value in section 4 of the source
GAMMA = 0.05
# bounds of the miscoverage rate, so that an interval is neither unbounded nor empty
_MIN_RATE, _MAX_RATE = 0.001, 0.9
Bands = dict[int, tuple[Floats, Floats]]


def miscoverage_rates(levels: Sequence[float], surplus: Floats) -> Floats:
    """Return the current miscoverage rates, `(…, levels)`.

    Args:
        levels: 0–100.
        surplus: expected minus observed number of misses so far, `(…, levels)`.
    """
    return np.clip(_nominal_rates(levels) * (1 + GAMMA * surplus), _MIN_RATE, _MAX_RATE)


def adapted_probabilities(probabilities: Sequence[float], levels: Sequence[float], rates: Floats) -> Floats:
    """Return the probability to look up for each requested probability, `(n, steps, len(probabilities))`.

    Rates are interpolated between levels. The rate of a higher level never exceeds that of a lower one, so intervals
    never cross.

    Args:
        probabilities: the requested probabilities, 0–1.
        levels: 0–100, in any order.
        rates: miscoverage rates, `(n, steps, levels)`, as `miscoverage_rates` returns them.
    """
    nominal = _nominal_rates(levels)
    order = np.argsort(-nominal)
    adapted = np.minimum.accumulate(rates[:, :, order], axis=2)[:, :, ::-1]
    ends = np.zeros((*adapted.shape[:2], 1))
    grid, adapted = np.array([0.0, *nominal[order][::-1], 1.0]), np.concatenate([ends, adapted, ends + 1], axis=2)
    requested = 2 * np.minimum(probabilities, 1 - np.asarray(probabilities))
    right = np.clip(np.searchsorted(grid, requested), 1, len(grid) - 1)
    weight = (requested - grid[right - 1]) / (grid[right] - grid[right - 1])
    tails = (adapted[:, :, right - 1] + weight * (adapted[:, :, right] - adapted[:, :, right - 1])) / 2
    return np.asarray(np.where(np.asarray(probabilities) <= 0.5, tails, 1 - tails))


@dataclass(frozen=True)
class Adapted:
    """Adaptive intervals of `n` windows.

    Args:
        levels: 0–100.
        bounds: each level's lower and upper bound in turn, `(n, horizon, 2 × levels)`.
        rates: the miscoverage rates behind them, `(n, horizon, levels)`.
    """

    levels: Sequence[int]
    bounds: Floats
    rates: Floats

    @property
    def bands(self) -> Bands:
        """Return the lower and upper bounds of each level, `(n, horizon)` each."""
        return {
            level: (self.bounds[:, :, 2 * index], self.bounds[:, :, 2 * index + 1])
            for index, level in enumerate(self.levels)
        }


def adapt(
    calibrations: Sequence[Calibration],
    actual: Floats,
    predicted: Forecasts,
    units: Floats,
    levels: Sequence[int],
    numbers: NDArray[np.int64],
    owners: NDArray[np.int64],
    step_size: int = 1,
) -> Adapted:
    """Return adaptive intervals; those of a window use only actuals from before its cutoff.

    Args:
        calibrations: the calibration at each cutoff.
        actual: actuals, `(n, horizon)`.
        predicted: forecasts of `n` windows.
        units: the unit of each window's residuals, `(n, 1)`.
        levels: 0–100.
        numbers: the cutoff of each window, increasing from 0, `(n,)`.
        owners: the series of each window, `(n,)`.
        step_size: rows between successive cutoffs.
    """
    n, horizon = actual.shape
    edges = bound_probabilities(levels)
    nominal = _nominal_rates(levels)
    surplus = np.zeros((int(owners.max()) + 1, horizon, len(levels)))
    bounds, rates = np.empty((n, horizon, len(edges))), np.empty((n, horizon, len(levels)))
    # by cutoff: the series, and the nominal rate minus the miss (0 or 1) of each step and level
    pending: list[tuple[NDArray[np.int64], Floats]] = []
    lags = -(-np.arange(1, horizon + 1) // step_size)
    borders = np.searchsorted(numbers, np.arange(len(calibrations) + 1))
    for number, calibration in enumerate(calibrations):
        for step, lag in enumerate(lags):
            if lag <= number:
                series, difference = pending[number - lag]
                surplus[series, step] += difference[:, step]
        rows = slice(borders[number], borders[number + 1])
        rates[rows] = miscoverage_rates(levels, surplus[owners[rows]])
        tails = adapted_probabilities(edges, levels, rates[rows])
        bounds[rows] = calibration.around(predicted.take(rows), units[rows], tails)
        lower, upper = bounds[rows, :, ::2], bounds[rows, :, 1::2]
        is_missed = (actual[rows, :, None] < lower) | (actual[rows, :, None] > upper)
        # a missing actual adapts nothing
        pending.append((owners[rows], np.where(np.isnan(actual[rows, :, None]), 0.0, nominal - is_missed)))
    return Adapted(levels, bounds, rates)


def _nominal_rates(levels: Sequence[float]) -> Floats:
    return np.array([miscoverage_rate(level) for level in levels])
