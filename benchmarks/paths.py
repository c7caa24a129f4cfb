"""Measure sample paths on real series and on sines: `python -m benchmarks.paths --data FOLDER`.

Each recipe is fitted and calibrated on the first two thirds of a series, as in `benchmarks.calibration`, and draws
paths of 5 steps at every cutoff of the last third, with static or adaptive intervals as its version chose.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scoringrules
from tqdm import tqdm

from benchmarks.calibration import HELD_OUT, Task, tasks
from benchmarks.report import Row, report
from forecaster.backtesting.backtest import Backtest, BacktestConfig, backtest
from forecaster.domain.config import load_config
from forecaster.domain.levels import LEVELS
from forecaster.domain.series import Floats
from forecaster.evaluation.adaptive import adapt, adapted_probabilities
from forecaster.evaluation.paths import draw_paths, generator, simultaneous_band
from forecaster.evaluation.significance import block_bootstrap_error
from forecaster.training.config import TrainConfig, prepare

N_SAMPLES = 1000
LEVEL = 80
# probabilities at which the paths' own quantiles are compared with the served ones
_COMPARED = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
# allowed difference of a quantile in percent of the 80 % interval, error of a coverage in points, and score of the
# paths over the score of independent draws
MAX_MARGINAL, MAX_COVERAGE_ERROR, MAX_VARIOGRAM_RATIO = 1.0, 3.0, 1.0
# windows that are scored at once
_CHUNK = 50


def measure(task: Task) -> Iterator[Row]:
    """Yield the rows of one series."""
    config = load_config(task.recipe, TrainConfig, task.changes, "train")
    series = prepare(config, config.data.load())
    trial = BacktestConfig(n_windows=len(series.values) // 3 - config.horizon, baselines=("naive",), levels=LEVELS)
    with tempfile.TemporaryDirectory() as folder:
        result = backtest(config, trial, series, Path(folder))
    (calibration,), actual = result.calibrations, result.actual
    quantiles = served_quantiles(result)
    templates = calibration.templates
    if templates is None:
        raise RuntimeError("a calibration of this release must have templates")
    grid = calibration.probabilities
    paths = np.stack(
        [
            draw_paths(own, grid, templates, N_SAMPLES, generator(config.seed, str(number)))
            for number, own in enumerate(quantiles)
        ]
    )
    independent = np.random.default_rng(config.seed).permuted(paths, axis=1)
    difference = 100 * _marginal_difference(paths, quantiles, grid)
    yield Row(f"{task.name}: largest difference of a quantile", difference, MAX_MARGINAL, "% of the 80 % interval")
    for label, drawn, bar in (("", paths, MAX_COVERAGE_ERROR), (", independent draws", independent, None)):
        low, high = simultaneous_band(drawn, LEVEL)
        inside: Floats = ((actual >= low) & (actual <= high)).min(axis=1, keepdims=True)[:, 0].astype(np.float64)
        covered, error = 100 * inside.mean(), 100 * block_bootstrap_error(inside, 2 * config.horizon)
        name = f"{task.name}{label}: {LEVEL} % simultaneous band covers {covered:.1f} % ± {error:.1f}, off by"
        yield Row(name, float(abs(covered - LEVEL)), bar, "points")
    ratio = variogram_score(actual, paths) / variogram_score(actual, independent)
    yield Row(f"{task.name}: variogram score over independent draws'", ratio, MAX_VARIOGRAM_RATIO, "ratio")


def served_quantiles(result: Backtest) -> Floats:
    """Return the calibrated quantiles that a version would serve for each window, `(n, horizon, n_probabilities)`."""
    (calibration,), predicted, origins = result.calibrations, result.predicted, result.origins
    grid = calibration.probabilities
    units = calibration.units(origins.windows.inputs().target)
    at = np.broadcast_to(grid, (1, predicted.mean.shape[1], len(grid)))
    if calibration.is_adaptive:
        calibrations = [calibration] * len(origins.cutoffs)
        owners = origins.windows.owners
        adapted = adapt(calibrations, result.actual, predicted, units, LEVELS, origins.numbers, owners)
        at = adapted_probabilities(tuple(grid), LEVELS, adapted.rates)
    return calibration.around(predicted, units, at)


def variogram_score(actual: Floats, paths: Floats) -> float:
    """Return the mean variogram score of order .5: Scheuerer & Hamill (2015), doi:10.1175/MWR-D-14-00269.1."""
    chunks = (slice(begin, begin + _CHUNK) for begin in range(0, len(actual), _CHUNK))
    return float(np.concatenate([scoringrules.vs_ensemble(actual[rows], paths[rows], p=0.5) for rows in chunks]).mean())


def _marginal_difference(paths: Floats, quantiles: Floats, grid: Floats) -> float:
    """Return the largest difference between the paths' own and the served quantiles, over the 80 % interval's width."""
    supported = [p for p in _COMPARED if grid[0] - 1e-9 <= p <= grid[-1] + 1e-9]
    columns = np.searchsorted(grid, np.array([*supported, 0.1, 0.9]) - 1e-9)
    served = quantiles[:, :, columns]
    width = served[:, :, -1] - served[:, :, -2]
    own = np.quantile(paths, supported, axis=1, method="hazen")
    return float((np.abs(np.moveaxis(own, 0, -1) - served[:, :, :-2]) / width[:, :, None]).max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every series and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paths",
        description=__doc__,
        epilog="example: python -m benchmarks.paths --data ~/data --only SPY sines",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="folder with stock/ and ett/ (default: only the sines)"
    )
    parser.add_argument(
        "--only", metavar="WORD", nargs="+", default=(), help="only series whose name contains a word (default: all)"
    )
    options = parser.parse_args(arguments)
    chosen = [task for task in tasks(options.data, options.only) if task.group != HELD_OUT]
    return report([row for task in tqdm(chosen, unit="series", dynamic_ncols=True) for row in measure(task)])


if __name__ == "__main__":
    sys.exit(main())
