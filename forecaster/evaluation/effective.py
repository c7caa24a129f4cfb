"""How many independent windows a sample is worth: horizons overlap, and series move together.

Sources: the variance of a mean of dependent values, Newey & West (1987), doi:10.2307/1913610; of a panel's, whose
cross-section is summed first, Driscoll & Kraay (1998), doi:10.1162/003465398557825, equation 4.
"""

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats, Times

# of the residuals, inside which dependence is measured: the tails are what intervals are made of
_INSIDE = 0.8


def effective_windows(residuals: Floats, cutoffs: Times | NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return each step's effective number of windows, `(horizon,)`: as measured, and at worst.

    Misses of the central 80 % are counted, for their dependence is what a coverage suffers from. At worst a step's
    windows are worth no more than those whose horizons do not overlap, as for a random walk.

    Args:
        residuals: `(n, horizon)`.
        cutoffs: each window's time, `(n,)`.
    """
    n, horizon = residuals.shape
    numbers = np.unique(cutoffs, return_inverse=True)[1]
    tail = (1 - _INSIDE) / 2
    low, high = np.quantile(residuals, [tail, 1 - tail], axis=0)
    missed = ((residuals < low) | (residuals > high)).astype(np.float64)
    missed -= missed.mean(axis=0)
    sums = np.zeros((int(numbers.max()) + 1, horizon))
    np.add.at(sums, numbers, missed)
    own, together = (missed**2).sum(axis=0), (sums**2).sum(axis=0)
    shared = np.clip(_ratio(together, own), 1, n / len(sums))
    steps = np.arange(1, horizon + 1)
    covariances = np.zeros(horizon)
    for lag in range(1, min(horizon, len(sums))):
        # an optimal forecast's errors at a step depend on each other for less than that step
        covariances[lag:] += (sums[:-lag, lag:] * sums[lag:, lag:]).sum(axis=0)
    serial = np.clip(1 + 2 * _ratio(covariances, together), 1, steps)
    return n / (shared * serial), n / (shared * steps)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
