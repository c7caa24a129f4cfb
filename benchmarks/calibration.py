"""Do intervals cover what they promise? `python -m benchmarks.calibration --data FOLDER` on real files and on sines.

The last third of each series is held back. The recipe is fitted and calibrated on the first two thirds, and forecasts
every origin of the last, 5 steps ahead, without a refit; prices by the recipe that is shipped for them, with each cell.
Beside it stand the bounds of a random walk of the window's volatility.

`--task overlap` asks whether overlapping windows of random walks are told from independent ones; it needs no files.
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

from benchmarks.overlap import overlap_rows
from benchmarks.report import Row, report
from forecaster.backtesting.backtest import BacktestConfig, backtest
from forecaster.backtesting.report import score
from forecaster.domain.config import load_config
from forecaster.models.cells import CELLS
from forecaster.training.config import TrainConfig, prepare

OTHERS = Path(__file__).parent / "configs" / "calibration.yaml"
STOCK = Path(__file__).parents[1] / "pipelines" / "configs" / "stock.yaml"
LEVELS = (80, 95)
# of a coverage, or two standard errors; of the worst interval score; of a cell's MAE beside the last value's
TOLERANCE, WORST, CLOSE = 0.02, 1.03, 1.01
# what choices were made on, and what was looked at afterwards
TUNED, HELD_BACK, EVERY = "tuned on", "held back", "all prices"
FILES = {
    "SPY 2008": (TUNED, "yahoofinance-SPY-20080101-20180101.csv"),
    "AAPL 2004": (TUNED, "yahoofinance-AAPL-20040819-20180120.csv"),
    "KO 2006": (TUNED, "djia-KO_2006-01-01_to_2018-01-01.csv"),
    "VIX 1990": (TUNED, "vix-daily.csv"),
    "MSFT 2006": (HELD_BACK, "djia-MSFT_2006-01-01_to_2018-01-01.csv"),
    "GOOG 2004": (HELD_BACK, "yahoofinance-GOOG-20040819-20180120.csv"),
    "AMZN 2010": (HELD_BACK, "msanet-AMZN-2010-2025.csv"),
    "AAPL 2010": (HELD_BACK, "msanet-AAPL-2010-2025.csv"),
    "GOOG 2010": (HELD_BACK, "msanet-GOOG-2010-2025.csv"),
    "AAPL 2015": (HELD_BACK, "plotly-finance-charts-apple.csv"),
}


@dataclass(frozen=True)
class Task:
    """A series, its recipe, the changes that it needs, and of prices whether choices were made on it."""

    name: str
    recipe: Path
    changes: tuple[str, ...]
    group: str | None = None


def tasks(folder: Path | None, only: Sequence[str]) -> Iterator[Task]:
    """Yield the sines, and where there is a folder the real series in it; those whose name holds a word of `only`."""
    every = [*_others(folder), *(_prices(folder) if folder else ())]
    yield from (task for task in every if not only or any(word in task.name for word in only))


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
    """Return the figures of the recipe, as `report.score` names them, and each cell's relative MAE: prices' of all."""
    config = load_config(task.recipe, TrainConfig, task.changes, "train")
    figures = _try(config)
    others = [cell for cell in CELLS if cell != config.model.cell and task.group]
    # folds size intervals alone
    without = config.model_copy(update={"folds": 0})
    relative = {cell: _try(without.with_cell(cell))["relative_mae"] for cell in others}
    return figures, {config.model.cell: figures["relative_mae"]} | relative


def _try(config: TrainConfig) -> dict[str, float]:
    series = prepare(config, config.data.load())
    trial = BacktestConfig(n_windows=len(series.values) // 3 - config.horizon, baselines=("naive",), levels=LEVELS)
    with tempfile.TemporaryDirectory() as folder:
        result = backtest(config, trial, series, Path(folder))
    return score(result, trial, series) | {"is_adaptive": float(result.is_adaptive[0])}


def rows(task: Task, figures: dict[str, float], relative: dict[str, float]) -> Iterator[Row]:
    """Yield a task's figures, as served and of both kinds: how far each coverage is from its level, scores' ratios."""
    kind = "adaptive" if figures["is_adaptive"] else "static"
    for level in LEVELS:
        if f"coverage-{level}" not in figures:
            yield Row(f"{task.name}: level {level} is refused, too few windows", 0.0, None, "")
            continue
        for suffix, bar in (("", True), ("-static", False), ("-adaptive", False)):
            said = f" ({kind})" if bar else suffix
            covered, error = figures[f"coverage-{level}{suffix}"], figures[f"coverage-{level}{suffix}-error"]
            name = f"{task.name}: {level} %{said} covers {100 * covered:.1f} % ± {100 * error:.1f}, off by"
            yield Row(name, 100 * abs(covered - level / 100), 100 * _allowed(error) if bar else None, "points")
            ratio = _ratio(figures, level, suffix)
            name = f"{task.name}: {level} %{said} interval score over a random walk's"
            yield Row(name, ratio, WORST if bar and task.group else None, "ratio")
    for cell, ratio in relative.items():
        yield Row(f"{task.name}: {cell} relative_mae", ratio, CLOSE if task.group else None, "ratio")


def summary(group: str, found: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Iterator[Row]:
    """Yield what is asked of a group of prices, if there are any: five of six within the bars, and the median score."""
    if not found:
        return
    most_off = len(found) // 6
    for level in LEVELS:
        known = [figures for figures, _ in found if f"coverage-{level}" in figures]
        off = [
            abs(figures[f"coverage-{level}"] - level / 100) > _allowed(figures[f"coverage-{level}-error"])
            for figures in known
        ]
        name = f"{group}: series of {len(known)} whose {level} % intervals cover too much or too little"
        yield Row(name, sum(off), most_off, "series")
        for suffix in ("", "-static", "-adaptive"):
            ratios = [_ratio(figures, level, suffix) for figures in known]
            name = f"{group}: {level} %{suffix or ' as served'}, median interval score over a random walk's"
            yield Row(name, float(np.median(ratios)), None if suffix else 1.0, "ratio")
    for cell in CELLS:
        worse = sum(relative[cell] > CLOSE for _, relative in found)
        yield Row(f"{group}: series of {len(found)} on which {cell} is worse than {CLOSE}", worse, most_off, "series")


def _allowed(error: float) -> float:
    return max(TOLERANCE, 2 * error)


def _ratio(figures: dict[str, float], level: int, suffix: str) -> float:
    return figures[f"winkler-{level}{suffix}"] / figures[f"naive-winkler-{level}"]


def main() -> int:
    """Measure every task and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--task", choices=("series", "overlap"), default="series")
    parser.add_argument("--data", type=Path, help="a folder with stock/ and ett/; the sines alone without it")
    parser.add_argument("--only", nargs="+", default=(), help="words of the series' names; all when left out")
    arguments = parser.parse_args()
    if arguments.task == "overlap":
        return report(overlap_rows())
    found: list[Row] = []
    groups: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for task in tqdm(list(tasks(arguments.data, arguments.only)), unit="series", dynamic_ncols=True):
        measured = measure(task)
        found += rows(task, *measured)
        for group in (task.group, EVERY) if task.group else ():
            groups.setdefault(group, []).append(measured)
    return report([*found, *(row for group in (HELD_BACK, EVERY) for row in summary(group, groups.get(group, [])))])


if __name__ == "__main__":
    sys.exit(main())
