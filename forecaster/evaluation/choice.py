"""Choose the residuals' unit and static or adaptive intervals by their interval scores on past residuals.

The residuals are split into four blocks by time. Each block but the first is forecast from the blocks before it, so
that all scores are out of sample: the prequential principle, Dawid (1984), doi:10.2307/2981683.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.levels import LEVELS, bound_probabilities
from forecaster.domain.missing import carried, mean_of_observed
from forecaster.domain.series import Floats, Times
from forecaster.domain.support import EVERYTHING, Support
from forecaster.evaluation.adaptive import Bands, adapt
from forecaster.evaluation.conformal import PROBABILITIES, Calibration, calibrate
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.paths import make_templates
from forecaster.evaluation.probabilistic import interval_scores
from forecaster.evaluation.significance import diebold_mariano
from forecaster.evaluation.units import SCALES, Unit

_N_BLOCKS = 4
# minimum number of cutoffs, in horizons; with fewer, differences of scores are not significant
MIN_HORIZONS = 40
# static intervals are chosen if their score is lower by at least this share, at this significance level
_MIN_IMPROVEMENT, _SIGNIFICANCE = 0.005, 0.05


@dataclass(frozen=True)
class Residuals:
    """Out-of-sample forecasts and their actuals, in the order of their cutoffs.

    Args:
        actual: actuals, `(n, horizon)`.
        predicted: forecasts of `n` windows.
        inputs: the target's history, `(n, input_size)`.
        cutoffs: the cutoff of each window, `(n,)`.
        owners: the position of each window's series, `(n,)`.
        support: the values that the target can take.
    """

    actual: Floats
    predicted: Forecasts
    inputs: Floats
    cutoffs: Times
    owners: NDArray[np.int64]
    support: Support = EVERYTHING

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Residuals":
        """Return the windows at `rows`."""
        return Residuals(
            self.actual[rows],
            self.predicted.take(rows),
            self.inputs[rows],
            self.cutoffs[rows],
            self.owners[rows],
            self.support,
        )

    def calibrate(self, unit: Unit) -> Calibration:
        """Return the calibration with residuals in `unit`."""
        return calibrate(self.actual, self.predicted, self.inputs, unit, self.cutoffs, self.support)

    def templates(self, calibration: Calibration) -> NDArray[np.int64]:
        """Return the templates of sample paths, from errors in the unit of a calibration.

        An error of a model that forecasts distributions is relative to the width of its own distribution. In place of a
        missing error stands that of the step before it.
        """
        errors, offsets = self.actual - self.predicted.mean, self.predicted.offsets
        if offsets is None:
            return make_templates(carried(errors / calibration.units(self.inputs)))
        low, middle, high = (offsets[:, :, PROBABILITIES.index(p)] for p in (0.1, 0.5, 0.9))
        return make_templates(carried((errors - middle) / np.maximum(high - low, np.finfo(np.float64).tiny)))


def choose(residuals: Residuals, units: Sequence[Unit]) -> Calibration:
    """Return the calibration on all residuals, with the unit and the kind of interval that scored best.

    Adaptive intervals keep their long-run coverage for any sequence of actuals: Gibbs & Candès (2021),
    arXiv 2106.00170, proposition 4.1. Static intervals are chosen only if they score significantly better, by at least
    `_MIN_IMPROVEMENT`. If there are too few windows, the first unit is chosen.

    Args:
        residuals: in the order of their cutoffs.
        units: the candidates, the default first.
    """
    cutoffs, horizon = np.unique(residuals.cutoffs), residuals.actual.shape[1]
    if len(cutoffs) < MIN_HORIZONS * horizon:
        return residuals.calibrate(units[0])
    # scores of returns are relative to the price, so that years with high prices do not dominate
    sizes = SCALES[units[0].scale].size(residuals.inputs)
    trials = [_trial(residuals, cutoffs, sizes, unit) for unit in units]
    scores = [trial.scores(trial.static()) for trial in trials]
    best = int(np.argmin([static.mean() for static in scores]))
    adaptive = trials[best].scores(trials[best].adaptive())
    p_value = diebold_mariano(scores[best], adaptive, horizon, "less").p_value
    is_static = p_value < _SIGNIFICANCE and scores[best].mean() <= (1 - _MIN_IMPROVEMENT) * adaptive.mean()
    return replace(residuals.calibrate(units[best]), is_adaptive=not is_static)


@dataclass(frozen=True)
class _Trial:
    """The windows of all blocks but the first, with calibrations from earlier blocks.

    Args:
        residuals: the residuals of these windows.
        numbers: the cutoff of each window, counted from 0, `(n,)`.
        blocks: for each block its calibration and its number of cutoffs.
        units: the unit of each window's residuals, `(n, 1)`.
        sizes: the divisor of each window's scores, `(n, 1)`.
    """

    residuals: Residuals
    numbers: NDArray[np.int64]
    blocks: Sequence[tuple[Calibration, int]]
    units: Floats
    sizes: Floats

    def static(self) -> Bands:
        tried, edges = self.residuals, bound_probabilities(LEVELS)
        bounds = np.empty((*tried.actual.shape, len(edges)))
        ends = np.cumsum([n for _, n in self.blocks])
        for (calibration, n), end in zip(self.blocks, ends, strict=True):
            rows = (self.numbers >= end - n) & (self.numbers < end)
            own, at = tried.predicted.take(rows), np.broadcast_to(edges, (1, *bounds.shape[1:]))
            bounds[rows] = calibration.around(own, self.units[rows], at)
        return {level: (bounds[:, :, 2 * i], bounds[:, :, 2 * i + 1]) for i, level in enumerate(LEVELS)}

    def adaptive(self) -> Bands:
        tried, calibrations = self.residuals, [calibration for calibration, n in self.blocks for _ in range(n)]
        return adapt(calibrations, tried.actual, tried.predicted, self.units, LEVELS, self.numbers, tried.owners).bands

    def scores(self, bands: Bands) -> Floats:
        """Return the interval score of each cutoff, the mean over its windows, steps and levels."""
        actual, sizes = self.residuals.actual / self.sizes, self.sizes
        by_level = [interval_scores(actual, low / sizes, high / sizes, level) for level, (low, high) in bands.items()]
        by_window = mean_of_observed(np.mean(by_level, axis=0))
        return np.asarray(np.bincount(self.numbers, by_window) / np.bincount(self.numbers))


def _trial(residuals: Residuals, cutoffs: Times, sizes: Floats, unit: Unit) -> _Trial:
    numbers, horizon = np.searchsorted(cutoffs, residuals.cutoffs), residuals.actual.shape[1]
    borders = np.arange(1, _N_BLOCKS + 1) * len(cutoffs) // _N_BLOCKS
    units, blocks = np.empty((len(numbers), 1)), list[tuple[Calibration, int]]()
    for begin, end in itertools.pairwise(borders):
        # leave out the last horizon before the block, because its actuals are not known when the block begins
        calibration = residuals.take(numbers <= begin - horizon).calibrate(unit)
        rows = (numbers >= begin) & (numbers < end)
        units[rows] = calibration.units(residuals.inputs[rows])
        blocks.append((calibration, int(end - begin)))
    tried = numbers >= borders[0]
    return _Trial(residuals.take(tried), numbers[tried] - borders[0], blocks, units[tried], sizes[tried])
