"""Coverage of intervals calibrated on overlapping windows of random walks: few windows, long horizons."""

import numpy as np
from scipy import stats

from benchmarks.report import Row
from forecaster.domain.levels import tails
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.forecasts import Forecasts

# horizon, number of calibration windows
CASES = ((5, 100), (20, 100), (20, 60))
# allowed error of the coverage by level, in percentage points
ALLOWED = {80: 3.0, 95: 2.0}
N_WALKS = 500


def overlap_rows(n_walks: int = N_WALKS) -> list[Row]:
    """Return the error of the coverage of each level, in points; 0 if the level is always refused."""
    return [
        _row(horizon, n_windows, level, *covered(horizon, n_windows, level, n_walks))
        for horizon, n_windows in CASES
        for level in ALLOWED
    ]


def covered(horizon: int, n_windows: int, level: int, n_walks: int) -> tuple[float, float]:
    """Return the mean coverage of the last value's intervals, and the share of walks for which they are refused.

    The changes of a walk are standard normal, so an interval's coverage is computed exactly. The coverage is NaN if
    the level is always refused.
    """
    deviations = np.sqrt(np.arange(1, horizon + 1))
    shares = []
    for seed in range(n_walks):
        walk = np.cumsum(np.random.default_rng(seed).normal(size=n_windows + horizon))
        actual = np.lib.stride_tricks.sliding_window_view(walk[1:], horizon)
        calibration = calibrate(actual, Forecasts(np.broadcast_to(walk[:-horizon, None], actual.shape)))
        if calibration.supports(level):
            low, high = calibration.quantiles(np.array(tails(level))).T
            shares.append(np.mean(stats.norm.cdf(high / deviations) - stats.norm.cdf(low / deviations)))
    return float(np.mean(shares)) if shares else float("nan"), 1 - len(shares) / n_walks


def _row(horizon: int, n_windows: int, level: int, share: float, refused: float) -> Row:
    outcome = "refused" if refused == 1 else f"covered {100 * share:.1f} %, refused for {refused:.0%}"
    error = 0.0 if refused == 1 else abs(100 * share - level)
    name = f"horizon {horizon}, {n_windows} windows, level {level}: {outcome}, off by"
    return Row(name, error, ALLOWED[level], "points")
