"""Measure the coverage of intervals on real series and on sines: `python -m benchmarks.calibration --data FOLDER`.

A recipe is fitted and calibrated on the first two thirds of each series, and forecasts 5 steps from every cutoff of the
last third, without a refit. Prices use the recipe of `pipelines/configs/stock.yaml` with each cell. The interval score
is compared with that of a random walk with the volatility of the window.

`--heads` measures the heads that forecast distributions, on six of the series.

`--task overlap` measures the coverage for overlapping windows of random walks; it needs no files.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks import heads
from benchmarks.overlap import overlap_rows
from benchmarks.report import Row, report
from forecaster.backtesting.backtest import Backtest, BacktestConfig, backtest
from forecaster.backtesting.report import score
from forecaster.domain.config import load_config
from forecaster.domain.levels import LEVELS
from forecaster.models.cells import CELLS
from forecaster.training.config import TrainConfig, prepare

OTHERS = Path(__file__).parent / "configs" / "calibration.yaml"
STOCK = Path(__file__).parents[1] / "pipelines" / "configs" / "stock.yaml"
# allowed error of a coverage (or two standard errors), interval score over a random walk's, and relative MAE of a cell
MAX_COVERAGE_ERROR, MAX_SCORE_RATIO, MAX_RELATIVE_MAE = 0.02, 1.03, 1.01
# series that design choices were tuned on, series that were held out from them, and both
TUNED, HELD_OUT, ALL_PRICES = "tuned on", "held out", "all prices"
FILES = {
    "SPY 2008": (TUNED, "yahoofinance-SPY-20080101-20180101.csv"),
    "AAPL 2004": (TUNED, "yahoofinance-AAPL-20040819-20180120.csv"),
    "KO 2006": (TUNED, "djia-KO_2006-01-01_to_2018-01-01.csv"),
    "VIX 1990": (TUNED, "vix-daily.csv"),
    "MSFT 2006": (HELD_OUT, "djia-MSFT_2006-01-01_to_2018-01-01.csv"),
    "GOOG 2004": (HELD_OUT, "yahoofinance-GOOG-20040819-20180120.csv"),
    "AMZN 2010": (HELD_OUT, "msanet-AMZN-2010-2025.csv"),
    "AAPL 2010": (HELD_OUT, "msanet-AAPL-2010-2025.csv"),
    "GOOG 2010": (HELD_OUT, "msanet-GOOG-2010-2025.csv"),
    "AAPL 2015": (HELD_OUT, "plotly-finance-charts-apple.csv"),
}


@dataclass(frozen=True)
class Task:
    """A series, its recipe, overrides of the recipe, and for prices the group: TUNED or HELD_OUT."""

    name: str
    recipe: Path
    changes: tuple[str, ...]
    group: str | None = None


def tasks(folder: Path | None, only: Sequence[str]) -> Iterator[Task]:
    """Yield the sines and, if there is a folder, its series; `only` selects names that contain one of its words."""
    all_tasks = [*_others(folder), *(_prices(folder) if folder else ())]
    yield from (task for task in all_tasks if not only or any(word in task.name for word in only))


def _others(folder: Path | None) -> Iterator[Task]:
    sines = [{"amplitude": 1, "period": 24}, {"amplitude": 0.5, "period": 60}]
    data: dict[str, object] = {"source": "sine", "length": 6000, "sines": sines}
    yield Task("sines", OTHERS, (f"data={json.dumps(data)}",))
    if folder:
        data = {"source": "files", "path": str(folder / "ett/ETTh1.csv"), "columns": {"ds": "date", "y": "OT"}}
        yield Task("ETTh1 OT", OTHERS, (f"data={json.dumps(data)}",))


def _prices(folder: Path) -> Iterator[Task]:
    for name, (group, file) in FILES.items():
        data = {"source": "files", "path": str(folder / "stock" / file)}
        yield Task(name, STOCK, (f"data={json.dumps(data)}", "freq=B"), group)


def measure(task: Task) -> tuple[dict[str, float], dict[str, float]]:
    """Return the recipe's metrics, named as by `score`, and the relative MAE by cell (for prices, of all cells)."""
    config = load_config(task.recipe, TrainConfig, task.changes, "train")
    metrics = _backtest(config)
    others = [cell for cell in CELLS if cell != config.model.cell and task.group]
    # folds affect only the intervals
    without_folds = config.model_copy(update={"folds": 0})
    relative = {cell: _backtest(without_folds.with_cell(cell))["relative_mae"] for cell in others}
    return metrics, {config.model.cell: metrics["relative_mae"]} | relative


def _backtest(config: TrainConfig) -> dict[str, float]:
    return _run(config)[1]


def _run(config: TrainConfig) -> tuple[Backtest, dict[str, float]]:
    series = prepare(config, config.data.load())
    trial = BacktestConfig(n_windows=len(series.values) // 3 - config.horizon, baselines=("naive",), levels=LEVELS)
    with tempfile.TemporaryDirectory() as folder:
        result = backtest(config, trial, series, Path(folder))
    return result, score(result, trial, series) | {"is_adaptive": float(result.is_adaptive[0])}


def measure_heads(tasks: Sequence[Task]) -> Iterator[heads.Measured]:
    """Yield the results of each head on each series; held-out series are not used, so that heads can be tuned."""
    todo = [(task, head) for task in tasks if task.group != HELD_OUT for head in heads.HEADS]
    for task, head in tqdm(todo, unit="head", dynamic_ncols=True):
        changes = (*task.changes, f"model.head={head}")
        result, metrics = _run(load_config(task.recipe, TrainConfig, changes, "train"))
        yield heads.Measured(task.name, head, metrics, *heads.count_crossings(result))


def rows(task: Task, metrics: dict[str, float], relative: dict[str, float]) -> Iterator[Row]:
    """Yield coverage errors and interval scores of the served, static and adaptive intervals, and the relative MAEs."""
    kind = "adaptive" if metrics["is_adaptive"] else "static"
    for level in LEVELS:
        if f"coverage-{level}" not in metrics:
            yield Row(f"{task.name}: level {level} is refused, too few windows", 0.0, None, "")
            continue
        for suffix, has_bar in (("", True), ("-static", False), ("-adaptive", False)):
            label = f" ({kind})" if has_bar else suffix
            covered, error = metrics[f"coverage-{level}{suffix}"], metrics[f"coverage-{level}{suffix}-error"]
            name = f"{task.name}: {level} %{label} covers {100 * covered:.1f} % ± {100 * error:.1f}, off by"
            bar = 100 * _max_coverage_error(error) if has_bar else None
            yield Row(name, 100 * abs(covered - level / 100), bar, "points")
            ratio = _score_ratio(metrics, level, suffix)
            name = f"{task.name}: {level} %{label} interval score over a random walk's"
            yield Row(name, ratio, MAX_SCORE_RATIO if has_bar and task.group else None, "ratio")
    for cell, ratio in relative.items():
        yield Row(f"{task.name}: {cell} relative_mae", ratio, MAX_RELATIVE_MAE if task.group else None, "ratio")


def summary(group: str, results: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Iterator[Row]:
    """Yield how many series of a group miss a bar (at most one in six may), and the median interval scores."""
    if not results:
        return
    max_misses = len(results) // 6
    for level in LEVELS:
        known = [metrics for metrics, _ in results if f"coverage-{level}" in metrics]
        misses = [
            abs(metrics[f"coverage-{level}"] - level / 100) > _max_coverage_error(metrics[f"coverage-{level}-error"])
            for metrics in known
        ]
        name = f"{group}: of {len(known)} series, those whose {level} % intervals cover too much or too little"
        yield Row(name, sum(misses), max_misses, "series")
        for suffix in ("", "-static", "-adaptive"):
            ratios = [_score_ratio(metrics, level, suffix) for metrics in known]
            name = f"{group}: {level} %{suffix or ' as served'}, median interval score over a random walk's"
            yield Row(name, float(np.median(ratios)), None if suffix else 1.0, "ratio")
    for cell in CELLS:
        worse = sum(relative[cell] > MAX_RELATIVE_MAE for _, relative in results)
        name = f"{group}: of {len(results)} series, those with a relative_mae of {cell} above {MAX_RELATIVE_MAE}"
        yield Row(name, worse, max_misses, "series")


def _max_coverage_error(standard_error: float) -> float:
    return max(MAX_COVERAGE_ERROR, 2 * standard_error)


def _score_ratio(metrics: dict[str, float], level: int, suffix: str) -> float:
    return metrics[f"winkler-{level}{suffix}"] / metrics[f"naive-winkler-{level}"]


def main() -> int:
    """Measure every task and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.calibration --data ~/data --only SPY AAPL\n"
        "  python -m benchmarks.calibration --task overlap",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--task", choices=("series", "overlap"), default="series", help="what to measure (default: %(default)s)"
    )
    parser.add_argument("--heads", action="store_true", help="measure the heads that forecast distributions")
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="folder with stock/ and ett/ (default: only the sines)"
    )
    parser.add_argument(
        "--only", metavar="WORD", nargs="+", default=(), help="only series whose name contains a word (default: all)"
    )
    arguments = parser.parse_args()
    if arguments.task == "overlap":
        return report(overlap_rows())
    if arguments.heads:
        return report(list(heads.rows(measure_heads(list(tasks(arguments.data, arguments.only))))))
    found: list[Row] = []
    groups: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for task in tqdm(list(tasks(arguments.data, arguments.only)), unit="series", dynamic_ncols=True):
        measured = measure(task)
        found += rows(task, *measured)
        for group in (task.group, ALL_PRICES) if task.group else ():
            groups.setdefault(group, []).append(measured)
    return report([*found, *(row for group in (HELD_OUT, ALL_PRICES) for row in summary(group, groups.get(group, [])))])


if __name__ == "__main__":
    sys.exit(main())
