"""Coverage, interval scores and crossings of the heads that forecast distributions, after conformal calibration."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Row
from forecaster.backtesting.backtest import Backtest
from forecaster.domain.levels import LEVELS

HEADS = ("quantile", "student_t")
# allowed error of the coverage of each level, in points
MAX_POINTS = {80: 2.0, 95: 1.5}
# quantiles that must increase
_PROBABILITIES = np.linspace(0.01, 0.99, 99)


@dataclass(frozen=True)
class Measured:
    """A head's results on a series: metrics as `score` names them, and how many pairs of quantiles cross."""

    series: str
    head: str
    metrics: dict[str, float]
    n_crossings: int
    n_pairs: int


def count_crossings(result: Backtest) -> tuple[int, int]:
    """Return how many neighbouring quantiles that a version would serve cross, and how many pairs there are."""
    calibration, windows, horizon = result.calibrations[0], result.origins.windows, result.actual.shape[1]
    units = calibration.units(windows.inputs().target)
    at = np.broadcast_to(_PROBABILITIES, (1, horizon, len(_PROBABILITIES)))
    distances = np.diff(calibration.around(result.predicted, units, at), axis=2)
    return int((distances < 0).sum()), distances.size


def rows(measured: Iterable[Measured]) -> Iterator[Row]:
    """Yield each series' coverage errors and interval scores, and the crossings of all."""
    results = list(measured)
    for result in results:
        where, metrics = f"{result.series}, {result.head}", result.metrics
        for level in LEVELS:
            covered, error = metrics[f"coverage-{level}"], metrics[f"coverage-{level}-error"]
            name = f"{where}: {level} % covers {100 * covered:.1f} % ± {100 * error:.1f}, off by"
            yield Row(name, 100 * abs(covered - level / 100), MAX_POINTS[level], "points")
            ratio = metrics[f"winkler-{level}"] / metrics[f"naive-winkler-{level}"]
            yield Row(f"{where}: {level} % interval score over a random walk's with EWMA bounds", ratio, 1.0, "ratio")
    pairs = sum(result.n_pairs for result in results)
    crossings = sum(result.n_crossings for result in results)
    yield Row(f"quantiles that cross, of {pairs:,} pairs", float(crossings), 0.0, "pairs")
