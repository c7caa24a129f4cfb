"""The unit of a window's residuals: 1, or the volatility of its values or returns.

The variance is pulled towards its long-run mean. To add a scale, add an entry to `SCALES`.

Sources: J.P. Morgan/Reuters (1996), RiskMetrics Technical Document, table 5.1, for the exponentially weighted mean of
squared changes; Bollerslev (1986), doi:10.1016/0304-4076(86)90063-1, equation 1, for the weight of the long-run
variance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.domain.missing import last_observed
from forecaster.domain.series import Floats

# the daily decay of RiskMetrics (1996), section 5.3
DECAY = 0.94
AUTO = "auto"
# the candidates of `auto`, the default first
_DECAYS = (DECAY, 0.9, 0.97)
_PULLS = (0.1, 0.2, 0.0)


@dataclass(frozen=True)
class Unit:
    """The divisor of a window's residuals.

    Args:
        scale: a name in `SCALES`.
        decay: the weight of a change relative to the weight of the next change.
        pull: the weight of the long-run variance, 0 to 1.
        long_run: the long-run variance, in the squared unit of the scale.
        least: the minimum unit, for windows of constant values.
    """

    scale: str = "constant"
    decay: float = DECAY
    pull: float = 0.0
    long_run: float = 0.0
    least: float = 1.0

    def fit(self, inputs: Floats) -> "Unit":
        """Return the unit with `long_run` and `least` estimated from windows `(n, input_size)`."""
        variances = SCALES[self.scale].variance(inputs, self.decay)
        positive = variances[variances > 0]
        # a geometric mean, because a crash would raise an arithmetic mean for years; windows without known changes need
        # it even without pull
        is_used = self.pull or np.isnan(variances).any()
        long_run = float(np.exp(np.log(positive).mean())) if is_used and len(positive) else 0.0
        units = replace(self, long_run=long_run, least=0.0).of(inputs)
        # a window of constant values gets the smallest unit of the other windows
        least = float(units[units > 0].min(initial=np.inf)) if positive.size else 1.0
        return replace(self, long_run=long_run, least=least)

    def of(self, inputs: Floats) -> Floats:
        """Return the unit of each window `(n, input_size)` of the target's history, `(n, 1)`."""
        # the unit of most models, which each request needs
        if self == CONSTANT:
            return np.ones((len(inputs), 1))
        scale = SCALES[self.scale]
        own = scale.variance(inputs, self.decay)
        variance = np.where(np.isnan(own), self.long_run, (1 - self.pull) * own + self.pull * self.long_run)
        return np.asarray(np.maximum(scale.size(inputs) * np.sqrt(variance), self.least))


CONSTANT = Unit()


def candidates(intervals: str, is_positive: bool) -> Sequence[Unit]:
    """Return the candidate units, the default first.

    Args:
        intervals: a name in `SCALES`, or `auto` for all units that suit the series.
        is_positive: whether the series is above 0, so that its returns are defined.
    """
    if intervals != AUTO:
        return [Unit(intervals)]
    if is_positive:
        return [Unit("returns", decay, pull) for decay in _DECAYS for pull in _PULLS]
    return [CONSTANT, *(Unit("ewma", decay, pull) for decay in _DECAYS for pull in _PULLS)]


def ewma(inputs: Floats) -> Floats:
    """Return the exponentially weighted volatility of each window's known changes, `(n, 1)`, with `DECAY`."""
    return np.sqrt(np.nan_to_num(_of_values(inputs, DECAY)))


@dataclass(frozen=True)
class Scale:
    """The variance of each window and the factor from its root to the unit of the values, `(n, 1)` each.

    The variance is NaN where no change is known.
    """

    variance: Callable[[Floats, float], Floats]
    size: Callable[[Floats], Floats]


def _ones(inputs: Floats, decay: float = DECAY) -> Floats:
    return np.ones((len(inputs), 1))


def _of_values(inputs: Floats, decay: float) -> Floats:
    changes = np.diff(inputs, axis=1)
    weights = decay ** np.arange(changes.shape[1] - 1, -1, -1)
    if not np.isnan(changes).any():
        return np.asarray((changes**2 * weights).sum(axis=1, keepdims=True) / weights.sum())
    # a change is known where both values are observed
    is_known = ~np.isnan(changes)
    sums = (np.where(is_known, changes, 0) ** 2 * weights).sum(axis=1, keepdims=True)
    totals = (is_known * weights).sum(axis=1, keepdims=True)
    return np.asarray(np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0))


def _of_returns(inputs: Floats, decay: float) -> Floats:
    return _of_values(np.log(inputs), decay)


def _last(inputs: Floats) -> Floats:
    return last_observed(inputs)


SCALES = {
    "constant": Scale(_ones, _ones),
    "ewma": Scale(_of_values, _ones),
    "returns": Scale(_of_returns, _last),
}
