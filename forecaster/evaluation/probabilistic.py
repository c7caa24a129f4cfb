"""Scores of quantiles and intervals: quantiles `(n, horizon, n_probabilities)`, bounds `(n, horizon)`."""

import numpy as np

from forecaster.domain.levels import miscoverage_rate
from forecaster.domain.series import Floats

# .05, .1, … .95: close enough together for twice their mean pinball loss to stand for the CRPS
CRPS_QUANTILES = np.arange(1, 20) / 20


def pinball(actual: Floats, quantiles: Floats, probabilities: Floats) -> float:
    """Return the mean pinball loss, in the values' unit.

    Source: Koenker & Bassett (1978), doi:10.2307/1913643.
    """
    import scoringrules

    return float(scoringrules.quantile_score(actual[..., None], quantiles, probabilities).mean())


def scaled_crps(actual: Floats, quantiles: Floats, probabilities: Floats) -> float:
    """Return twice the mean pinball loss over all probabilities, over the mean absolute actual value.

    Infinite where all actual values are 0 and a quantile is not. Source: Rangapuram et al. (2021), PMLR 139, section 4.
    """
    return over_size(2 * pinball(actual, quantiles, probabilities), actual)


def over_size(loss: float, actual: Floats) -> float:
    """Return a mean loss over the mean absolute actual value; where that is 0, a loss of 0 is 0, any other infinite."""
    size = float(np.abs(actual).mean())
    if size == 0:
        return 0.0 if loss == 0 else float("inf")
    return loss / size


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """Return the share of values that lie within their bounds, 0 to 1."""
    return float(((actual >= low) & (actual <= high)).mean())


def width(low: Floats, high: Floats) -> float:
    """Return the intervals' mean width, in the values' unit."""
    return float((high - low).mean())


def interval_scores(actual: Floats, low: Floats, high: Floats, level: float) -> Floats:
    """Return each value's interval score: the width of bounds meant to cover `level` (0–100), and a penalty for a miss.

    Source: Winkler (1972), doi:10.2307/2284720; Gneiting & Raftery (2007), doi:10.1198/016214506000001437, equation 43.
    """
    import scoringrules

    # axes of length 1 do not survive it
    return np.reshape(scoringrules.interval_score(actual, low, high, miscoverage_rate(level)), actual.shape)


def winkler(actual: Floats, low: Floats, high: Floats, level: float) -> float:
    """Return the mean interval score of bounds meant to cover `level` (0–100)."""
    return float(interval_scores(actual, low, high, level).mean())
