"""Split conformal intervals: quantiles of out-of-sample residuals, per horizon step, kept on a fixed grid.

Source: Papadopoulos et al. (2002), doi:10.1007/3-540-36755-1_29; the finite-sample ranks of Lei et al. (2018),
doi:10.1080/01621459.2017.1307116, equation 4, applied to each tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Floats

GRID = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
PROBABILITIES = (*GRID, *(round(1 - p, 3) for p in reversed(GRID[:-1])))


@dataclass(frozen=True)
class Calibration:
    """Quantiles of residuals (actual - mean).

    Args:
        probabilities: increasing, symmetric around .5, `(n_probabilities,)`.
        residuals: `(horizon, n_probabilities)`, in the values' unit, increasing along the second axis.
        n_windows: how many windows they come from.
    """

    probabilities: Floats
    residuals: Floats
    n_windows: int

    def quantiles(self, probabilities: Floats) -> Floats:
        """Return residual quantiles `(horizon, len(probabilities))`, interpolated on the grid.

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

    def bands(self, levels: Sequence[int]) -> dict[int, tuple[Floats, Floats]]:
        """Return the residuals below and above, `(horizon,)` each, of those `levels` (0–100) that are supported."""
        edges = {level: np.array([(100 - level) / 200, (100 + level) / 200]) for level in levels}
        spreads = {level: self.quantiles(one) for level, one in edges.items() if one[0] >= self.probabilities[0] - 1e-9}
        return {level: (spread[:, 0], spread[:, 1]) for level, spread in spreads.items()}


def calibrate(actual: Floats, predicted: Floats) -> Calibration:
    """Return the residuals' quantiles, each tail's rank rounded outwards; grid points beyond the sample are left out.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`, by a model that has not seen these windows.
    """
    residuals = np.sort(actual - predicted, axis=0)
    n = len(residuals)
    kept = [p for p in PROBABILITIES if min(p, 1 - p) * (n + 1) >= 1 - 1e-9 or p == 0.5]
    columns = [_ranked(residuals, p) for p in kept]
    return Calibration(np.array(kept), np.stack(columns, axis=1), n)


def _ranked(ordered: Floats, probability: float) -> Floats:
    n = len(ordered)
    if probability == 0.5:
        return np.asarray(np.median(ordered, axis=0))
    lower, upper = np.floor(probability * (n + 1) + 1e-9), np.ceil(probability * (n + 1) - 1e-9)
    return np.asarray(ordered[int(lower if probability < 0.5 else upper) - 1])
