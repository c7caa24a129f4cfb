"""Measure how often the gate decides wrongly, in simulated contests: `python -m benchmarks.gate`.

Prices are random walks whose volatility changes. Forecasts without skill are the last value plus random functions of
the past, so a challenger and its champion are exchangeable. Forecasts with skill know a share of the future changes.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from benchmarks.report import Row, report
from forecaster.domain.manifest import Certificate
from forecaster.domain.series import Floats
from forecaster.evaluation.significance import compare_losses
from forecaster.promotion.gate import PROMOTED, BesideChampion, Evidence, GateConfig, decide, replaces

N_CONTESTS = 500
HORIZONS = (1, 5, 20)
N_WINDOWS = (60, 250, 750)
# number of challengers, the best of which is judged
TRIES = 3
# the largest allowed share of wrong promotions
MAX_WRONG = 0.05

Forecaster = Callable[["Walk", np.random.Generator], Floats]


class Walk:
    """A random walk with `n` cutoffs.

    `last`, `(n,)`, is the value at each cutoff, `change`, `(n,)`, the change before it, `actual`, `(n, horizon)`, the
    actuals.
    """

    def __init__(self, n_windows: int, horizon: int, random: np.random.Generator) -> None:
        """Draw a walk whose log-volatility is a random walk."""
        volatility = np.exp(np.cumsum(random.normal(0, 0.03, n_windows + horizon)))
        changes = random.normal(size=n_windows + horizon) * volatility
        levels = np.cumsum(changes)
        self.last, self.change = levels[:n_windows], changes[:n_windows]
        ahead = np.arange(n_windows)[:, None] + np.arange(1, horizon + 1)
        # the last window reaches one step beyond the walk
        self.actual = np.append(levels, levels[-1])[np.minimum(ahead, n_windows + horizon)]


def without_skill(walk: Walk, random: np.random.Generator) -> Floats:
    """Return forecasts without skill: the last value plus a random share of the last change and a slow random error."""
    n = len(walk.last)
    slow = np.convolve(random.normal(size=n + 19), np.full(20, 20**-0.5), "valid") * np.abs(walk.change).mean()
    moved = walk.last + random.normal(0, 0.05) * walk.change + 0.1 * slow
    return np.repeat(moved[:, None], walk.actual.shape[1], axis=1)


def knowing(share: float) -> Forecaster:
    """Return a forecaster that knows a share of the future changes."""

    def forecast(walk: Walk, random: np.random.Generator) -> Floats:
        blind = without_skill(walk, random)
        return np.asarray(blind + share * (walk.actual - blind))

    return forecast


def contest(
    ours: Forecaster, theirs: Forecaster, horizon: int, n_windows: int, random: np.random.Generator, *, fresher: bool
) -> bool:
    """Return whether a fresher version, or the best of several challengers with other recipes, replaces a champion."""
    walk, tries = Walk(n_windows, horizon, random), 1 if fresher else int(random.choice([1, TRIES]))
    candidates = [losses(walk, ours, random) for _ in range(tries)]
    best = min(candidates, key=lambda candidate: float(candidate.mean()))
    ratio = compare_losses(best, losses(walk, theirs, random), horizon)
    return replaces(BesideChampion(1, ratio, n_windows, True, fresher, {}), GateConfig(), tries).is_met


def losses(walk: Walk, forecaster: Forecaster, random: np.random.Generator) -> Floats:
    """Return the mean absolute error at each cutoff, `(n,)`."""
    return np.asarray(np.abs(walk.actual - forecaster(walk, random)).mean(axis=1))


def first_version(
    ours: Forecaster, horizon: int, n_windows: int, random: np.random.Generator, gate: GateConfig
) -> bool:
    """Return whether the best of several first versions passes the comparison with the last value."""
    walk = Walk(n_windows, horizon, random)
    naive = np.abs(walk.actual - walk.last[:, None]).mean(axis=1)
    best = min((losses(walk, ours, random) for _ in range(TRIES)), key=lambda candidate: float(candidate.mean()))
    ratio = compare_losses(best, naive, horizon)
    evidence = Evidence({"naive-mae": 1.0}, (), Certificate(digests={}, cutoffs=()), 0.0, ratio, None, TRIES)
    return decide(evidence, gate).outcome == PROMOTED


def shares(horizon: int, n_windows: int, random: np.random.Generator) -> dict[str, float]:
    """Return the share of contests that a challenger wins, by kind of contest."""

    def won(ours: Forecaster, *, fresher: bool = False, theirs: Forecaster = without_skill) -> float:
        found = [contest(ours, theirs, horizon, n_windows, random, fresher=fresher) for _ in range(N_CONTESTS)]
        return float(np.mean(found))

    def passed(ours: Forecaster, gate: GateConfig) -> float:
        return float(np.mean([first_version(ours, horizon, n_windows, random, gate) for _ in range(N_CONTESTS)]))

    skill = GateConfig(require="skill")
    return {
        "exchangeable challengers that replace the champion": won(without_skill),
        "fresher versions promoted though 5 % worse": won(without_skill, fresher=True, theirs=knowing(0.05)),
        "versions without skill that pass require: skill": passed(without_skill, skill),
        "challengers 10 % better that replace the champion": won(knowing(0.1)),
        "fresher versions as good that replace the champion": won(without_skill, fresher=True),
        "versions 10 % better than the last value that pass require: skill": passed(knowing(0.1), skill),
    }


def rows() -> Iterator[Row]:
    """Yield the shares; those of wrong decisions have a bar."""
    random = np.random.default_rng(0)
    for horizon in tqdm(HORIZONS, unit="horizon", dynamic_ncols=True):
        for n_windows in N_WINDOWS:
            for number, (name, share) in enumerate(shares(horizon, n_windows, random).items()):
                # the first three kinds are wrong decisions
                bar = MAX_WRONG if number < 3 else None
                yield Row(f"horizon {horizon}, {n_windows} windows: {name}", share, bar, "share")


def main() -> int:
    """Simulate the contests and print the table."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    return report(list(rows()))


if __name__ == "__main__":
    sys.exit(main())
