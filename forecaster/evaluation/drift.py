"""Drift: the distance between a model's inputs and its training data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats

_BINS = 10
# an empty bin would make the drift infinite
_MIN_SHARE = 1e-4


@dataclass(frozen=True)
class Drift:
    """The distance between two distributions.

    Args:
        psi: population stability index; below .1 counts as stable, above .25 as shifted.
        ks: Kolmogorov–Smirnov statistic at the bin edges, 0–1.
    """

    psi: float
    ks: float


def reference_bins(values: Floats) -> tuple[Floats, Floats]:
    """Return the inner edges of quantile bins, `(bins - 1,)`, and the share of observed values in each, `(bins,)`."""
    values = values[~np.isnan(values)]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return edges, count_bins(values, edges) / len(values)


def count_bins(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Return the number of observed values in each bin, `(len(edges) + 1,)`; the upper bin has those on its edge."""
    observed = values[~np.isnan(values)]
    return np.bincount(np.searchsorted(edges, observed, side="right"), minlength=len(edges) + 1)


def measure_drift(counts: NDArray[np.int64], shares: Floats) -> Drift:
    """Return the drift of counts `(bins,)`, which are not all 0, from reference shares `(bins,)`.

    Source of the population stability index: Siddiqi (2006), Credit Risk Scorecards, chapter 6.
    """
    observed = counts / counts.sum()
    now, then = np.maximum(observed, _MIN_SHARE), np.maximum(shares, _MIN_SHARE)
    psi = float(((now - then) * np.log(now / then)).sum())
    return Drift(psi, float(np.abs(np.cumsum(observed) - np.cumsum(shares)).max()))
