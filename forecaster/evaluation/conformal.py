"""Conformal intervals: quantiles of out-of-sample residuals, per horizon step, kept on a fixed grid.

Source: Papadopoulos et al. (2002), doi:10.1007/3-540-36755-1_29; the finite-sample ranks of Lei et al. (2018),
doi:10.1080/01621459.2017.1307116, equation 4, applied to each tail; normalised by their section 5.2. The
ranks are those of as many windows as the sample is worth (`effective`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import RequestError
from forecaster.domain.levels import tails
from forecaster.domain.series import Floats, Times
from forecaster.evaluation.effective import effective_windows
from forecaster.evaluation.units import CONSTANT, Unit

GRID = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
PROBABILITIES = (*GRID, *(round(1 - p, 3) for p in reversed(GRID[:-1])))


@dataclass(frozen=True)
class Calibration:
    """Quantiles of residuals (actual - mean), in units of each window.

    Args:
        probabilities: increasing, symmetric around .5, `(n_probabilities,)`.
        residuals: `(horizon, n_probabilities)`, increasing along the second axis.
        n_windows: how many windows they come from.
        n_effective: how many independent windows these are worth, at the step where it is least.
        unit: what the residuals are divided by.
        is_adaptive: whether intervals are served that follow what was covered.
    """

    probabilities: Floats
    residuals: Floats
    n_windows: int
    n_effective: float
    unit: Unit = CONSTANT
    is_adaptive: bool = True

    def quantiles(self, probabilities: Floats) -> Floats:
        """Return residual quantiles `(horizon, len(probabilities))`, in units of the window, interpolated on the grid.

        Raises:
            RequestError: a probability lies beyond what the calibration windows can support.
        """
        least, greatest = self.probabilities[0], self.probabilities[-1]
        beyond = [p for p in probabilities if not least - 1e-9 <= p <= greatest + 1e-9]
        if beyond:
            raise RequestError(
                f"level/quantiles: {beyond[0]:g} lies beyond the calibrated range {least:g} to {greatest:g} "
                f"({self.n_windows} calibration windows, worth {self.n_effective:.0f} independent ones; level up to "
                f"{100 * (greatest - least):g}); ask for less"
            )
        return np.array([np.interp(probabilities, self.probabilities, row) for row in self.residuals])

    def residuals_at(self, probabilities: Floats) -> Floats:
        """Return each step's residual quantiles at probabilities of its own, `(n, steps, …)`, in units of the window.

        Probabilities beyond the grid get its outermost quantiles.
        """
        grid = self.probabilities
        steps = np.arange(probabilities.shape[1]).reshape(-1, *[1] * (probabilities.ndim - 2))
        right = np.clip(np.searchsorted(grid, probabilities), 1, len(grid) - 1)
        share = (probabilities - grid[right - 1]) / (grid[right] - grid[right - 1])
        before, after = self.residuals[steps, right - 1], self.residuals[steps, right]
        return np.asarray(before + np.clip(share, 0, 1) * (after - before))

    def units(self, inputs: Floats) -> Floats:
        """Return the unit of each window `(n, input_size)` of the target's past, `(n, 1)`."""
        return self.unit.of(inputs)

    def knows(self, level: float) -> bool:
        """Say whether the calibration windows support an interval of a level, 0–100."""
        return bool(tails(level)[0] >= self.probabilities[0] - 1e-9)

    def summary(self) -> dict[str, Any]:
        """Return what the intervals rest on and what was chosen for them."""
        return {
            "n_windows": self.n_windows,
            "n_effective": round(self.n_effective, 1),
            "is_adaptive": self.is_adaptive,
            "scale": self.unit.scale,
            "decay": self.unit.decay,
            "pull": self.unit.pull,
            "level_up_to": round(100 * float(self.probabilities[-1] - self.probabilities[0]), 1),
        }

    def bands(self, inputs: Floats, levels: Sequence[int]) -> dict[int, tuple[Floats, Floats]]:
        """Return what lies below and above the mean, `(n, horizon)` each, for the `levels` (0–100) that are known."""
        units, known = self.units(inputs), [level for level in levels if self.knows(level)]
        edges = [self.quantiles(np.array(tails(level))) for level in known]
        return {level: (units * edge[:, 0], units * edge[:, 1]) for level, edge in zip(known, edges, strict=True)}


def calibrate(
    actual: Floats,
    predicted: Floats,
    inputs: Floats | None = None,
    unit: Unit = CONSTANT,
    cutoffs: Times | NDArray[np.int64] | None = None,
) -> Calibration:
    """Return the residuals' quantiles, each tail's rank rounded outwards.

    A grid point is left out where fewer windows than it needs do not overlap, the worst case of a random walk.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`, by a model that has not seen these windows.
        inputs: the target's past, `(n, input_size)`; needed unless the scale is constant.
        unit: the residuals' unit, not yet fitted.
        cutoffs: each window's time, `(n,)`; successive when None, as a single series' windows are.
    """
    past = np.zeros((len(actual), 1)) if inputs is None else inputs
    fitted = unit.fit(past)
    residuals = (actual - predicted) / fitted.of(past)
    measured, worst = effective_windows(residuals, np.arange(len(residuals)) if cutoffs is None else cutoffs)
    kept = [p for p in PROBABILITIES if min(p, 1 - p) * (worst.min() + 1) >= 1 - 1e-9 or p == 0.5]
    quantiles = outward_quantiles(residuals, np.array(kept), measured)
    return Calibration(np.array(kept), quantiles, len(residuals), float(measured.min()), fitted)


def outward_quantiles(residuals: Floats, probabilities: Floats, n_effective: Floats) -> Floats:
    """Return quantiles `(horizon, len(probabilities))` of residuals `(n, horizon)`, ranks rounded outwards.

    Of `m` independent values the one of rank `p (m + 1)` has the probability `p` below it on average. Here `m` is each
    step's effective number `(horizon,)`, and the rank is carried over to the sample that there is.
    """
    ordered, n = np.sort(residuals, axis=0), len(residuals)
    tails = np.minimum(probabilities, 1 - probabilities)
    m = np.maximum(n_effective, 1 + 1e-9)[:, None]
    place = np.clip((tails * (m + 1) - 1) / (m - 1) * (n - 1), 0, None)
    # what rounding leaves of a whole rank is none
    low = np.floor(place + 1e-6).astype(np.int64)
    ranks = np.where(probabilities < 0.5, low, n - 1 - low)
    found = np.take_along_axis(ordered.T, ranks, axis=1)
    found[:, probabilities == 0.5] = np.median(ordered, axis=0)[:, None]
    return np.asarray(found)
