"""The unit of a window's residuals: 1, or the volatility of its values or returns, drawn towards the long run's.

A new scale is an entry in `SCALES`.

Sources: J.P. Morgan/Reuters (1996), RiskMetrics Technical Document, table 5.1, for the exponentially weighted mean of
squared changes; Bollerslev (1986), doi:10.1016/0304-4076(86)90063-1, equation 1, for the share of the long run in a
conditional variance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.domain.series import Floats

# how fast old changes are forgotten: daily, in RiskMetrics (1996), section 5.3
DECAY = 0.94
AUTO = "auto"
# what `auto` chooses from, the usual first
_DECAYS = (DECAY, 0.9, 0.97)
_PULLS = (0.1, 0.2, 0.0)


@dataclass(frozen=True)
class Unit:
    """What residuals are divided by.

    Args:
        scale: a name in `SCALES`.
        decay: the weight of a change relative to the next one's.
        pull: the weight of the long run's variance, 0 to 1.
        long_run: the long run's variance, in the square of the scale's own unit.
        least: the smallest unit, for windows in which nothing changes.
    """

    scale: str = "constant"
    decay: float = DECAY
    pull: float = 0.0
    long_run: float = 0.0
    least: float = 1.0

    def fit(self, inputs: Floats) -> "Unit":
        """Return the unit with the long run and the smallest unit of windows `(n, input_size)`."""
        calmest = SCALES[self.scale].variance(inputs, self.decay)
        moving = calmest[calmest > 0]
        # a mean of logarithms, which a crash does not raise for years
        long_run = float(np.exp(np.log(moving).mean())) if self.pull and len(moving) else 0.0
        found = replace(self, long_run=long_run, least=0.0).of(inputs)
        # a window in which nothing changed has the unit of the calmest one in which something did
        return replace(
            self, long_run=long_run, least=float(found[found > 0].min(initial=np.inf)) if moving.size else 1.0
        )

    def of(self, inputs: Floats) -> Floats:
        """Return the unit of each window `(n, input_size)` of the target's past, `(n, 1)`."""
        scale = SCALES[self.scale]
        variance = (1 - self.pull) * scale.variance(inputs, self.decay) + self.pull * self.long_run
        return np.asarray(np.maximum(scale.size(inputs) * np.sqrt(variance), self.least))


CONSTANT = Unit()


def candidates(intervals: str, is_positive: bool) -> Sequence[Unit]:
    """Return the units to choose from, the usual one first.

    Args:
        intervals: a name in `SCALES`, or `auto` for all that suit the series.
        is_positive: whether the series is above 0, so that its returns are defined.
    """
    if intervals != AUTO:
        return [Unit(intervals)]
    if is_positive:
        return [Unit("returns", decay, pull) for decay in _DECAYS for pull in _PULLS]
    return [CONSTANT, *(Unit("ewma", decay, pull) for decay in _DECAYS for pull in _PULLS)]


def ewma(inputs: Floats) -> Floats:
    """Return the volatility `(n, 1)` of each window's changes, with RiskMetrics' decay."""
    return np.sqrt(_of_values(inputs, DECAY))


@dataclass(frozen=True)
class Scale:
    """A variance `(n, 1)` of each window, and what its root is multiplied with for the values' unit, `(n, 1)`."""

    variance: Callable[[Floats, float], Floats]
    size: Callable[[Floats], Floats]


def _ones(inputs: Floats, decay: float = DECAY) -> Floats:
    return np.ones((len(inputs), 1))


def _of_values(inputs: Floats, decay: float) -> Floats:
    changes = np.diff(inputs, axis=1)
    weights = decay ** np.arange(changes.shape[1] - 1, -1, -1)
    return np.asarray((changes**2 * weights).sum(axis=1, keepdims=True) / weights.sum())


def _of_returns(inputs: Floats, decay: float) -> Floats:
    return _of_values(np.log(inputs), decay)


def _last(inputs: Floats) -> Floats:
    return inputs[:, -1:]


SCALES = {
    "constant": Scale(_ones, _ones),
    "ewma": Scale(_of_values, _ones),
    "returns": Scale(_of_returns, _last),
}
