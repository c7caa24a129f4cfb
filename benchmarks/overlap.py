"""Are overlapping windows told from independent ones? Intervals of random walks, from few windows and long horizons."""

import numpy as np
from scipy import stats

from benchmarks.report import Row
from forecaster.domain.levels import tails
from forecaster.evaluation.conformal import calibrate

# horizon, calibration windows
CASES = ((5, 100), (20, 100), (20, 60))
# points that the coverage may be off
ALLOWED = {80: 3.0, 95: 2.0}
N_WALKS = 500


def overlap_rows(n_walks: int = N_WALKS) -> list[Row]:
    """Return how far the coverage is from each level, in points, 0 where the level is always refused."""
    return [
        _row(horizon, n_windows, level, *covered(horizon, n_windows, level, n_walks))
        for horizon, n_windows in CASES
        for level in ALLOWED
    ]


def covered(horizon: int, n_windows: int, level: int, n_walks: int) -> tuple[float, float]:
    """Return the mean share that the last value's intervals cover of coming walks, and how often they are refused.

    A walk's changes are standard normal, so each interval's share is known without drawing. It is not a number where
    the level is always refused.
    """
    deviations = np.sqrt(np.arange(1, horizon + 1))
    shares = []
    for seed in range(n_walks):
        walk = np.cumsum(np.random.default_rng(seed).normal(size=n_windows + horizon))
        actual = np.lib.stride_tricks.sliding_window_view(walk[1:], horizon)
        calibration = calibrate(actual, np.broadcast_to(walk[:-horizon, None], actual.shape))
        if calibration.knows(level):
            low, high = calibration.quantiles(np.array(tails(level))).T
            shares.append(np.mean(stats.norm.cdf(high / deviations) - stats.norm.cdf(low / deviations)))
    return float(np.mean(shares)) if shares else float("nan"), 1 - len(shares) / n_walks


def _row(horizon: int, n_windows: int, level: int, share: float, refused: float) -> Row:
    said = "refused" if refused == 1 else f"covered {100 * share:.1f} %, refused of {refused:.0%}"
    off = 0.0 if refused == 1 else abs(100 * share - level)
    return Row(f"horizon {horizon}, {n_windows} windows, level {level}: {said}, off by", off, ALLOWED[level], "points")
