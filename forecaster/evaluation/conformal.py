"""Split conformal intervals: quantiles of out-of-sample residuals, per horizon step, kept on a fixed grid.

Where a series is calm at times and wild at others, residuals are taken in units of the window's volatility, and the
intervals widen and narrow with it. A new scale is an entry in `SCALES`.

Source: Papadopoulos et al. (2002), doi:10.1007/3-540-36755-1_29; the finite-sample ranks of Lei et al. (2018),
doi:10.1080/01621459.2017.1307116, equation 4, applied to each tail; normalised by their section 5.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Floats

GRID = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
PROBABILITIES = (*GRID, *(round(1 - p, 3) for p in reversed(GRID[:-1])))
# how fast old changes are forgotten: daily, in RiskMetrics (1996), section 5.3
_DECAY = 0.94
# how fast adaptive intervals follow what was covered: Gibbs & Candès (2021), arXiv 2106.00170, section 4
ADAPTION_RATE = 0.005


def constant(inputs: Floats) -> Floats:
    """Return 1 for each window `(n, input_size)`, as `(n, 1)`: one width for all."""
    return np.ones((len(inputs), 1))


def ewma(inputs: Floats) -> Floats:
    """Return each window's volatility `(n, 1)`: the root of the exponentially weighted mean of squared changes.

    Source: J.P. Morgan/Reuters (1996), RiskMetrics Technical Document, table 5.1, with a mean of 0.
    """
    changes = np.diff(inputs, axis=1)
    weights = _DECAY ** np.arange(changes.shape[1] - 1, -1, -1)
    return np.asarray(np.sqrt((changes**2 * weights).sum(axis=1, keepdims=True) / weights.sum()))


SCALES: dict[str, Callable[[Floats], Floats]] = {"constant": constant, "ewma": ewma}


@dataclass(frozen=True)
class Calibration:
    """Quantiles of residuals (actual - mean), in units of the window's scale.

    Args:
        probabilities: increasing, symmetric around .5, `(n_probabilities,)`.
        residuals: `(horizon, n_probabilities)`, increasing along the second axis.
        n_windows: how many windows they come from.
        scale: the unit's name in `SCALES`; with `constant` residuals are in the values' unit.
        least: the smallest unit, for windows in which nothing changes.
    """

    probabilities: Floats
    residuals: Floats
    n_windows: int
    scale: str = "constant"
    least: float = 1.0

    def quantiles(self, probabilities: Floats) -> Floats:
        """Return residual quantiles `(horizon, len(probabilities))`, in units of the scale, interpolated on the grid.

        Raises:
            RequestError: a probability lies beyond what the calibration windows can support.
        """
        least, greatest = self.probabilities[0], self.probabilities[-1]
        beyond = [p for p in probabilities if not least - 1e-9 <= p <= greatest + 1e-9]
        if beyond:
            raise RequestError(
                f"level/quantiles: {beyond[0]:g} lies beyond the calibrated range {least:g} to {greatest:g} "
                f"({self.n_windows} calibration windows; level up to {100 * (greatest - least):g}); ask for less"
            )
        return np.array([np.interp(probabilities, self.probabilities, row) for row in self.residuals])

    def residuals_at(self, probabilities: Floats) -> Floats:
        """Return each step's residual quantile at probabilities of its own, `(n, steps)`, in units of the scale.

        Probabilities beyond the grid get its outermost quantiles.
        """
        grid, steps = self.probabilities, np.arange(probabilities.shape[1])
        right = np.clip(np.searchsorted(grid, probabilities), 1, len(grid) - 1)
        share = (probabilities - grid[right - 1]) / (grid[right] - grid[right - 1])
        before, after = self.residuals[steps, right - 1], self.residuals[steps, right]
        return np.asarray(before + np.clip(share, 0, 1) * (after - before))

    def units(self, inputs: Floats) -> Floats:
        """Return the unit of each window `(n, input_size)` of the target's past, `(n, 1)`."""
        return np.asarray(np.maximum(SCALES[self.scale](inputs), self.least))

    def spread(self, inputs: Floats, probabilities: Floats) -> Floats:
        """Return what is added to the mean of each window for its quantiles, `(n, horizon, len(probabilities))`.

        Raises:
            RequestError: a probability lies beyond what the calibration windows can support.
        """
        return np.asarray(self.units(inputs)[:, :, None] * self.quantiles(probabilities))

    def bands(self, inputs: Floats, levels: Sequence[int]) -> dict[int, tuple[Floats, Floats]]:
        """Return what lies below and above the mean, `(n, horizon)` each, for the `levels` (0–100) that are known."""
        edges = {level: np.array([(100 - level) / 200, (100 + level) / 200]) for level in levels}
        spreads = {
            level: self.spread(inputs, one) for level, one in edges.items() if one[0] >= self.probabilities[0] - 1e-9
        }
        return {level: (spread[:, :, 0], spread[:, :, 1]) for level, spread in spreads.items()}


def calibrate(actual: Floats, predicted: Floats, inputs: Floats | None = None, scale: str = "constant") -> Calibration:
    """Return the residuals' quantiles, each tail's rank rounded outwards; grid points beyond the sample are left out.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`, by a model that has not seen these windows.
        inputs: the target's past, `(n, input_size)`; needed unless the scale is constant.
        scale: the residuals' unit, a name in `SCALES`.
    """
    units = np.ones((len(actual), 1)) if inputs is None else SCALES[scale](inputs)
    # a window in which nothing changed has the unit of the calmest one in which something did
    moving = units[units > 0]
    least = float(moving.min()) if len(moving) else 1.0
    residuals = np.sort((actual - predicted) / np.maximum(units, least), axis=0)
    n = len(residuals)
    kept = [p for p in PROBABILITIES if min(p, 1 - p) * (n + 1) >= 1 - 1e-9 or p == 0.5]
    columns = [_ranked(residuals, p) for p in kept]
    return Calibration(np.array(kept), np.stack(columns, axis=1), n, scale, least)


def _ranked(ordered: Floats, probability: float) -> Floats:
    n = len(ordered)
    if probability == 0.5:
        return np.asarray(np.median(ordered, axis=0))
    lower, upper = np.floor(probability * (n + 1) + 1e-9), np.ceil(probability * (n + 1) - 1e-9)
    return np.asarray(ordered[int(lower if probability < 0.5 else upper) - 1])
