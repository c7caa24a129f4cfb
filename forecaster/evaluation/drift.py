"""Drift: how far what a model is given has moved from what it was trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats

_BINS = 10
# a share of nothing would be an infinite drift
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Drift:
    """Two measures of one distribution's distance from another.

    Args:
        psi: population stability index; below .1 is called stable, above .25 shifted.
        ks: greatest difference of the cumulated shares, 0–1, at the bins' edges.
    """

    psi: float
    ks: float


def reference_bins(values: Floats) -> tuple[Floats, Floats]:
    """Return the inner edges of bins with about as many values each, `(bins - 1,)`, and each bin's share, `(bins,)`."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return edges, count_bins(values, edges) / len(values)


def count_bins(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Return how many values lie in each bin, `(len(edges) + 1,)`; one on an edge lies in the bin above."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def measure_drift(counts: NDArray[np.int64], shares: Floats) -> Drift:
    """Return how far counts `(bins,)`, at least one, are from the reference's shares `(bins,)`.

    Source: Siddiqi (2006), Credit Risk Scorecards, chapter 6, of the index; Kolmogorov–Smirnov of the other.
    """
    found = counts / counts.sum()
    now, then = np.maximum(found, _LEAST_SHARE), np.maximum(shares, _LEAST_SHARE)
    psi = float(((now - then) * np.log(now / then)).sum())
    return Drift(psi, float(np.abs(np.cumsum(found) - np.cumsum(shares)).max()))
