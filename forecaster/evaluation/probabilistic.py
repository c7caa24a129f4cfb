"""Scores of quantiles `(n, horizon, n_probabilities)` and of interval bounds `(n, horizon)`.

Missing actuals do not count.
"""

import numpy as np

from forecaster.domain.levels import miscoverage_rate
from forecaster.domain.missing import mean_of_observed, observed_only
from forecaster.domain.series import Floats

# .05, .1, … .95: dense enough that twice their mean pinball loss approximates the CRPS
CRPS_QUANTILES = np.arange(1, 20) / 20


def pinball(actual: Floats, quantiles: Floats, probabilities: Floats) -> float:
    """Return the mean pinball loss, in the values' unit.

    Source: Koenker & Bassett (1978), doi:10.2307/1913643.
    """
    import scoringrules

    actual, quantiles = observed_only(actual, quantiles)
    return float(scoringrules.quantile_score(actual[..., None], quantiles, probabilities).mean())


def scaled_crps(actual: Floats, quantiles: Floats, probabilities: Floats) -> float:
    """Return twice the mean pinball loss divided by the mean absolute actual.

    Infinite if all actuals are 0 and a quantile is not. Source: Rangapuram et al. (2021), PMLR 139, section 4.
    """
    return scale_loss(2 * pinball(actual, quantiles, probabilities), actual)


def scale_loss(loss: float, actual: Floats) -> float:
    """Return a mean loss divided by the mean absolute actual; if that is 0, then 0 for a loss of 0, else infinite."""
    size = float(np.abs(observed_only(actual)[0]).mean())
    if size == 0:
        return 0.0 if loss == 0 else float("inf")
    return loss / size


def coverage_by_window(actual: Floats, low: Floats, high: Floats) -> Floats:
    """Return the share of each window's observed actuals inside its interval, `(n,)`; NaN where none is observed.

    Args:
        actual, low, high: `(n, horizon)`; a missing actual is NaN.
    """
    return mean_of_observed(np.where(np.isnan(actual), np.nan, (actual >= low) & (actual <= high)))


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """Return the share of actuals within the bounds, 0 to 1."""
    actual, low, high = observed_only(actual, low, high)
    return float(((actual >= low) & (actual <= high)).mean())


def width(low: Floats, high: Floats) -> float:
    """Return the intervals' mean width, in the values' unit."""
    return float((high - low).mean())


def interval_scores(actual: Floats, low: Floats, high: Floats, level: float) -> Floats:
    """Return the interval score of each value: the width of the `level` (0–100) interval plus a penalty for a miss.

    Source: Winkler (1972), doi:10.2307/2284720; Gneiting & Raftery (2007), doi:10.1198/016214506000001437, equation 43.
    """
    import scoringrules

    # axes of length 1 do not survive it
    scores = np.reshape(scoringrules.interval_score(actual, low, high, miscoverage_rate(level)), actual.shape)
    return np.where(np.isnan(actual), np.nan, scores)


def winkler(actual: Floats, low: Floats, high: Floats, level: float) -> float:
    """Return the mean interval score of `level` (0–100) intervals."""
    actual, low, high = observed_only(actual, low, high)
    return float(interval_scores(actual, low, high, level).mean())
