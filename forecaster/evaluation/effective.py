"""Effective sample size of overlapping windows and correlated series.

Sources: Newey & West (1987), doi:10.2307/1913610, for the variance of a mean of dependent values; Driscoll & Kraay
(1998), doi:10.1162/003465398557825, equation 4, for panels, where the cross-section is summed first.
"""

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats, Times

# dependence is measured on misses of this central share of the residuals
_CENTRAL_COVERAGE = 0.8


def effective_windows(residuals: Floats, cutoffs: Times | NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the effective number of windows of each step, `(horizon,)`: the estimate and the worst case.

    The estimate uses the misses of the central 80 % of the residuals, because their dependence is what makes coverage
    vary. In the worst case, a random walk, only windows without overlap count.

    Args:
        residuals: `(n, horizon)`; each step has an observed one.
        cutoffs: the cutoff of each window, `(n,)`.
    """
    n, horizon = residuals.shape
    numbers = np.unique(cutoffs, return_inverse=True)[1]
    tail = (1 - _CENTRAL_COVERAGE) / 2
    is_observed = ~np.isnan(residuals)
    n_observed = is_observed.sum(axis=0)
    quantile = np.quantile if is_observed.all() else np.nanquantile
    low, high = quantile(residuals, [tail, 1 - tail], axis=0)
    missed = ((residuals < low) | (residuals > high)).astype(np.float64)
    missed -= missed.sum(axis=0) / n_observed
    missed *= is_observed
    sums = np.zeros((int(numbers.max()) + 1, horizon))
    np.add.at(sums, numbers, missed)
    own, together = (missed**2).sum(axis=0), (sums**2).sum(axis=0)
    shared = np.clip(_ratio(together, own), 1, n / len(sums))
    steps = np.arange(1, horizon + 1)
    covariances = np.zeros(horizon)
    for lag in range(1, min(horizon, len(sums))):
        # the errors of an optimal h-step forecast are correlated up to lag h - 1
        covariances[lag:] += (sums[:-lag, lag:] * sums[lag:, lag:]).sum(axis=0)
    serial = np.clip(1 + 2 * _ratio(covariances, together), 1, steps)
    return n_observed / (shared * serial), n_observed / (shared * steps)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
