"""Which unit, and static or adaptive: what has the better interval score on residuals in the order of time.

The residuals' time is cut into four blocks. Each but the first is forecast from those before it, so that nothing is
scored on what it was made from: the prequential principle, Dawid (1984), doi:10.2307/2981683.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.levels import LEVELS, tails
from forecaster.domain.series import Floats, Times
from forecaster.evaluation.adaptive import Bands, adaptive_bands
from forecaster.evaluation.conformal import Calibration, calibrate
from forecaster.evaluation.probabilistic import interval_scores
from forecaster.evaluation.significance import diebold_mariano
from forecaster.evaluation.units import SCALES, Unit

_BLOCKS = 4
# of cutoffs, in horizons: with fewer, differences of scores are chance
LEAST_HORIZONS = 40
# by which share of the score static intervals must be better, and the p-value below which that is no chance
_BETTER_BY, _SIGNIFICANCE = 0.005, 0.05


@dataclass(frozen=True)
class Residuals:
    """Forecasts of windows that the forecaster had not seen, beside what came, in the order of their cutoffs.

    Args:
        actual: `(n, horizon)`.
        predicted: `(n, horizon)`.
        inputs: the target's past, `(n, input_size)`.
        cutoffs: each window's time, `(n,)`.
        owners: the position of each window's series, `(n,)`.
    """

    actual: Floats
    predicted: Floats
    inputs: Floats
    cutoffs: Times
    owners: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Residuals":
        """Return some of the windows."""
        return Residuals(
            self.actual[rows], self.predicted[rows], self.inputs[rows], self.cutoffs[rows], self.owners[rows]
        )

    def calibrate(self, unit: Unit) -> Calibration:
        """Return the quantiles in a unit."""
        return calibrate(self.actual, self.predicted, self.inputs, unit, self.cutoffs)


def choose(residuals: Residuals, units: Sequence[Unit]) -> Calibration:
    """Return the calibration on all residuals, with the unit and the kind of interval that scored best.

    Intervals that adapt keep their coverage in the long run, whatever comes: Gibbs & Candès (2021), arXiv 2106.00170,
    proposition 4.1. They are static where that insurance costs too much: where static ones scored significantly better,
    and by at least `_BETTER_BY`. Where there are too few windows to tell, the first unit is taken.

    Args:
        residuals: in the order of their cutoffs.
        units: to choose from, the usual one first.
    """
    cutoffs, horizon = np.unique(residuals.cutoffs), residuals.actual.shape[1]
    if len(cutoffs) < LEAST_HORIZONS * horizon:
        return residuals.calibrate(units[0])
    # in units of the value where returns are compared, so that dear years do not outweigh cheap ones
    sizes = SCALES[units[0].scale].size(residuals.inputs)
    trials = [_trial(residuals, cutoffs, sizes, unit) for unit in units]
    scores = [trial.scores(trial.static()) for trial in trials]
    best = int(np.argmin([one.mean() for one in scores]))
    adaptive = trials[best].scores(trials[best].adaptive())
    chance = diebold_mariano(scores[best], adaptive, horizon, "less").p_value
    is_static = chance < _SIGNIFICANCE and scores[best].mean() <= (1 - _BETTER_BY) * adaptive.mean()
    return replace(residuals.calibrate(units[best]), is_adaptive=not is_static)


@dataclass(frozen=True)
class _Trial:
    """The windows of all blocks but the first.

    Args:
        residuals: of these windows.
        numbers: each window's cutoff, counted from 0, `(n,)`.
        blocks: each block's calibration, from the blocks before it, and how many cutoffs it serves.
        units: of each window, `(n, 1)`.
        sizes: what scores are divided by, `(n, 1)`.
    """

    residuals: Residuals
    numbers: NDArray[np.int64]
    blocks: Sequence[tuple[Calibration, int]]
    units: Floats
    sizes: Floats

    def static(self) -> Bands:
        return {level: (self._edge(tails(level)[0]), self._edge(tails(level)[1])) for level in LEVELS}

    def adaptive(self) -> Bands:
        tried, calibrations = self.residuals, [one for one, count in self.blocks for _ in range(count)]
        return adaptive_bands(
            calibrations, tried.actual, tried.predicted, self.units, LEVELS, self.numbers, tried.owners
        )

    def scores(self, bands: Bands) -> Floats:
        """Return each cutoff's interval score, the mean over its windows, steps and levels."""
        actual, sizes = self.residuals.actual / self.sizes, self.sizes
        of_levels = [interval_scores(actual, low / sizes, high / sizes, level) for level, (low, high) in bands.items()]
        of_windows = np.mean(of_levels, axis=0).mean(axis=1)
        return np.asarray(np.bincount(self.numbers, of_windows) / np.bincount(self.numbers))

    def _edge(self, probability: float) -> Floats:
        asked = np.full((1, self.residuals.actual.shape[1]), probability)
        quantiles = np.concatenate([np.repeat(one.residuals_at(asked), count, axis=0) for one, count in self.blocks])
        return np.asarray(self.residuals.predicted + self.units * quantiles[self.numbers])


def _trial(residuals: Residuals, cutoffs: Times, sizes: Floats, unit: Unit) -> _Trial:
    numbers, horizon = np.searchsorted(cutoffs, residuals.cutoffs), residuals.actual.shape[1]
    borders = np.arange(1, _BLOCKS + 1) * len(cutoffs) // _BLOCKS
    units, blocks = np.empty((len(numbers), 1)), list[tuple[Calibration, int]]()
    for begin, end in itertools.pairwise(borders):
        # a horizon before the block, for later outcomes are not known when it begins
        calibration = residuals.take(numbers <= begin - horizon).calibrate(unit)
        rows = (numbers >= begin) & (numbers < end)
        units[rows] = calibration.units(residuals.inputs[rows])
        blocks.append((calibration, int(end - begin)))
    tried = numbers >= borders[0]
    return _Trial(residuals.take(tried), numbers[tried] - borders[0], blocks, units[tried], sizes[tried])
