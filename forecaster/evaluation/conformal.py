"""Conformal intervals: quantiles of out-of-sample residuals by horizon step, on a fixed grid of probabilities.

A model that forecasts a distribution keeps its shape: the residual of a quantile is the actual minus this quantile, and
each quantile is moved by its own residuals. A forecast without a distribution is the case in which all quantiles are
the mean.

Source: Romano, Patterson & Candès (2019), arXiv 1905.03222, equation 6, for the residuals of quantiles; Chernozhukov,
Fernández-Val & Galichon (2010), doi:10.3982/ECTA7880, for sorting quantiles that cross after they are moved;
Papadopoulos et al. (2002), doi:10.1007/3-540-36755-1_29; Lei et al. (2018),
doi:10.1080/01621459.2017.1307116, equation 4 for the finite-sample ranks, here of each tail, and section 5.2 for the
normalization. The ranks use the effective number of windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import DataError, RequestError
from forecaster.domain.levels import bound_probabilities, tails
from forecaster.domain.series import Floats, Times
from forecaster.domain.support import EVERYTHING, Support
from forecaster.evaluation.effective import effective_windows
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.units import CONSTANT, Unit

GRID = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
PROBABILITIES = (*GRID, *(round(1 - p, 3) for p in reversed(GRID[:-1])))


@dataclass(frozen=True)
class Calibration:
    """Quantiles of residuals (actual - mean), divided by each window's unit.

    If the model forecasts a distribution, the column of a probability holds the quantile of the residuals of the
    distribution's own quantile for it.

    Args:
        probabilities: increasing, symmetric around .5, `(n_probabilities,)`.
        residuals: the quantiles, `(horizon, n_probabilities)`, increasing along the second axis.
        n_windows: number of calibration windows.
        n_effective: effective number of windows, the minimum over the steps.
        unit: the residuals' unit.
        is_adaptive: whether the served intervals are adaptive.
        templates: of sample paths, as `make_templates` returns them; None in bundles of earlier releases.
        support: the values that the target can take, which the served quantiles respect.
    """

    probabilities: Floats
    residuals: Floats
    n_windows: int
    n_effective: float
    unit: Unit = CONSTANT
    is_adaptive: bool = True
    templates: NDArray[np.int64] | None = None
    support: Support = EVERYTHING

    def quantiles(self, probabilities: Floats) -> Floats:
        """Return residual quantiles `(horizon, len(probabilities))`, in the window's unit, interpolated on the grid.

        Raises:
            RequestError: a probability lies outside the range that the calibration windows support.
        """
        least, greatest = self.probabilities[0], self.probabilities[-1]
        beyond = [p for p in probabilities if not least - 1e-9 <= p <= greatest + 1e-9]
        if beyond:
            raise RequestError(
                f"level/quantiles: {beyond[0]:g} lies outside the calibrated range {least:g} to {greatest:g} "
                f"({self.n_windows} calibration windows, effectively {self.n_effective:.0f}); "
                f"request a level up to {100 * (greatest - least):g}"
            )
        return np.array([np.interp(probabilities, self.probabilities, row) for row in self.residuals])

    def spread(self, units: Floats, probabilities: Floats, offsets: Floats | None = None) -> Floats:
        """Return the quantiles minus the mean, `(n, steps, n_probabilities)`, increasing with the probabilities.

        Args:
            units: each window's unit, `(n, 1)`.
            probabilities: `(n or 1, steps, n_probabilities)`; a probability outside the grid gets the outermost
                quantile.
            offsets: those of `Forecasts`, `(n, steps, len(PROBABILITIES))`, or None.
        """
        steps = probabilities.shape[1]
        if offsets is None:
            return np.asarray(units[:, :, None] * self._interpolated(self.residuals[None, :steps], probabilities))
        columns = np.searchsorted(PROBABILITIES, self.probabilities - 1e-9)
        moved = offsets[:, :steps, columns] + units[:, :, None] * self.residuals[:steps]
        return self._interpolated(np.sort(moved, axis=2), probabilities)

    def around(self, predicted: Forecasts, units: Floats, probabilities: Floats) -> Floats:
        """Return the quantiles as they are served, `(n, steps, n_probabilities)`; the arguments are those of `spread`.

        Args:
            predicted: the forecasts of `n` windows.
            units: each window's unit, `(n, 1)`.
            probabilities: `(n or 1, steps, n_probabilities)`.
        """
        spread = self.spread(units, probabilities, predicted.offsets)
        return self.support.quantiles(predicted.mean[:, : spread.shape[1], None] + spread, probabilities)

    def _interpolated(self, table: Floats, probabilities: Floats) -> Floats:
        """Return values of `table (n or 1, steps, grid)` at `probabilities (n or 1, steps, n_probabilities)`."""
        grid = self.probabilities
        if len(grid) == 1:
            return np.broadcast_to(table, np.broadcast_shapes(table.shape, probabilities.shape))
        right = np.clip(np.searchsorted(grid, probabilities), 1, len(grid) - 1)
        share = np.clip((probabilities - grid[right - 1]) / (grid[right] - grid[right - 1]), 0, 1)
        rows = np.broadcast_shapes(table.shape[:1], right.shape[:1])
        table = np.broadcast_to(table, (*rows, *table.shape[1:]))
        right = np.broadcast_to(right, (*rows, *right.shape[1:]))
        before, after = (np.take_along_axis(table, positions, axis=2) for positions in (right - 1, right))
        return np.asarray(before + share * (after - before))

    def units(self, inputs: Floats) -> Floats:
        """Return the unit of each window `(n, input_size)` of the target's history, `(n, 1)`."""
        return self.unit.of(inputs)

    def supports(self, level: float) -> bool:
        """Whether the calibration windows support intervals of a level, 0–100."""
        return bool(tails(level)[0] >= self.probabilities[0] - 1e-9)

    def summary(self) -> dict[str, Any]:
        """Return the sample sizes and the chosen settings, for a model's description."""
        return {
            "n_windows": self.n_windows,
            "n_effective": round(self.n_effective, 1),
            "is_adaptive": self.is_adaptive,
            "scale": self.unit.scale,
            "decay": self.unit.decay,
            "pull": self.unit.pull,
            "level_up_to": round(100 * float(self.probabilities[-1] - self.probabilities[0]), 1),
        }

    def bands(self, inputs: Floats, levels: Sequence[int], predicted: Forecasts) -> dict[int, tuple[Floats, Floats]]:
        """Return the lower and upper bounds, `(n, horizon)` each, of the supported `levels` (0–100)."""
        supported = [level for level in levels if self.supports(level)]
        edges = np.broadcast_to(bound_probabilities(supported), (1, len(self.residuals), 2 * len(supported)))
        bounds = self.around(predicted, self.units(inputs), edges)
        return {level: (bounds[:, :, 2 * i], bounds[:, :, 2 * i + 1]) for i, level in enumerate(supported)}


def calibrate(
    actual: Floats,
    predicted: Forecasts,
    inputs: Floats | None = None,
    unit: Unit = CONSTANT,
    cutoffs: Times | NDArray[np.int64] | None = None,
    support: Support = EVERYTHING,
) -> Calibration:
    """Return the quantiles of the residuals, with each tail's rank rounded outwards.

    A grid point needs enough windows without overlap, which is the worst case of a random walk; otherwise it is left
    out.

    Args:
        actual: actuals, `(n, horizon)`; those that are missing have no residual.
        predicted: out-of-sample forecasts of `n` windows.
        inputs: the target's history, `(n, input_size)`; required unless the unit is constant.
        unit: the residuals' unit, not yet fitted.
        cutoffs: the cutoff of each window, `(n,)`; None if the windows of a single series succeed one another.
        support: the values that the target can take.
    """
    past = np.zeros((len(actual), 1)) if inputs is None else inputs
    fitted = unit.fit(past)
    residuals = (actual - predicted.mean) / fitted.of(past)
    unseen = np.flatnonzero(np.isnan(residuals).all(axis=0))
    if len(unseen):
        raise DataError(
            f"intervals: step {unseen[0] + 1} of the horizon has no observed actual to calibrate on; add observed rows "
            "to the calibration part, or lower horizon"
        )
    measured, worst = effective_windows(residuals, np.arange(len(residuals)) if cutoffs is None else cutoffs)
    kept = [p for p in PROBABILITIES if min(p, 1 - p) * (worst.min() + 1) >= 1 - 1e-9 or p == 0.5]
    if predicted.offsets is None:
        quantiles = outward_quantiles(residuals, np.array(kept), measured)
    else:
        own = (residuals - predicted.offsets[:, :, PROBABILITIES.index(p)] / fitted.of(past) for p in kept)
        by_probability = [outward_quantiles(r, np.array([p]), measured) for r, p in zip(own, kept, strict=True)]
        quantiles = np.concatenate(by_probability, axis=1)
    return Calibration(np.array(kept), quantiles, len(residuals), float(measured.min()), fitted, support=support)


def outward_quantiles(residuals: Floats, probabilities: Floats, n_effective: Floats) -> Floats:
    """Return quantiles `(horizon, len(probabilities))` of residuals `(n, horizon)`, with ranks rounded outwards.

    Of `m` independent values, the value of rank `p (m + 1)` is the `p` quantile on average. Here `m` is the effective
    number of windows of each step, `(horizon,)`, and the rank is scaled to the sample size `n`.
    """
    # what is missing comes last
    ordered, n = np.sort(residuals, axis=0), (~np.isnan(residuals)).sum(axis=0)[:, None]
    tails = np.minimum(probabilities, 1 - probabilities)
    m = np.maximum(n_effective, 1 + 1e-9)[:, None]
    rank = np.clip((tails * (m + 1) - 1) / (m - 1) * (n - 1), 0, None)
    # a rank just below an integer is that integer with a rounding error
    low = np.floor(rank + 1e-6).astype(np.int64)
    ranks = np.where(probabilities < 0.5, low, n - 1 - low)
    found = np.take_along_axis(ordered.T, ranks, axis=1)
    found[:, probabilities == 0.5] = np.nanmedian(ordered, axis=0)[:, None]
    return np.asarray(found)
