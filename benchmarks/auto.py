"""Measure what `model: auto` chooses beside the closed forms: `python -m benchmarks.auto --data FOLDER`.

Each series is trained by `model: auto`. The table shows its MAE on the test part divided by that of the better of the
ridge regression and the seasonal naive forecast, and the last value's MAE beside them. Five classic series come first.
The candidates were designed on their train and validation parts, and on synthetic series. The others were held back.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.report import Row, report
from benchmarks.trainings import ridge_forecast
from forecaster.data.windows import Windows
from forecaster.domain.config import build_config
from forecaster.domain.series import Floats
from forecaster.evaluation.baselines import last_value, seasonal_naive
from forecaster.evaluation.metrics import mae
from forecaster.training.auto import choose_recipe
from forecaster.training.config import TrainConfig, split
from forecaster.training.dataset import load_dataset, prepare_again
from forecaster.training.stages import evaluate

# the test error over that of the better of these
RIVALS = ("ridge", "seasonal naive")
BAR = 1.02
_HALVES = {"train": 0.4, "validation": 0.2, "calibration": 0.15, "test": 0.25}


@dataclass(frozen=True)
class Task:
    """A series, its lengths, the season of the naive forecast, and keys of the recipe."""

    name: str
    read: Callable[[Path], Floats]
    freq: str
    input_size: int
    horizon: int
    season: int
    changes: tuple[tuple[str, Any], ...] = ()


def _column(file: str, name: str, folder: Path) -> Floats:
    return np.asarray(pd.read_csv(folder / file)[name], dtype=np.float64)


def _pollution(name: str, folder: Path) -> Floats:
    """Return a column of the last two years; a missing value is that of the hour before."""
    hours = pd.read_csv(folder / "classic/pollution.csv.gz")[name].ffill()
    return np.asarray(hours.iloc[-2 * 365 * 24 :], dtype=np.float64)


def _m4(number: int, folder: Path) -> Floats:
    rows = pd.read_csv(folder / "m4/Hourly-train.csv.gz")
    return np.asarray(rows.iloc[number, 1:].dropna(), dtype=np.float64)


def _rate(number: int, folder: Path) -> Floats:
    return np.asarray(pd.read_csv(folder / "exchange_rate/exchange_rate.txt.gz", header=None)[number], dtype=np.float64)


CLASSIC = (
    Task("airline passengers", partial(_column, "classic/monthly-airline-passengers.csv", "Passengers"), "MS", 15, 3,
         12, (("split", _HALVES),)),
    Task("sunspots", partial(_column, "classic/monthly-sunspots.csv", "Sunspots"), "MS", 144, 12, 132),
    Task("minimum temperatures", partial(_column, "classic/daily-min-temperatures.csv", "Temp"), "D", 28, 7, 7),
    Task("Beijing PM2.5", partial(_pollution, "pm2.5"), "h", 48, 12, 24),
    Task("Beijing temperature", partial(_pollution, "TEMP"), "h", 48, 12, 24),
)  # fmt: skip
HELD_BACK = (
    *(Task(f"M4 hourly, row {number}", partial(_m4, number), "h", 48, 12, 24) for number in (0, 99, 199, 299)),
    *(Task(f"exchange rate {number}", partial(_rate, number), "D", 30, 5, 7) for number in (0, 5)),
    Task("ETTh1 OT", partial(_column, "ett/ETTh1.csv", "OT"), "h", 96, 24, 24),
)


@dataclass(frozen=True)
class Measured:
    """The test errors of the chosen recipe and of the closed forms, and what was chosen."""

    chosen: str
    mae: float
    closed: dict[str, float]

    @property
    def ratio(self) -> float:
        """Return the error over that of the better rival."""
        return self.mae / min(self.closed[name] for name in RIVALS)


def measure(task: Task, folder: Path, minutes: float) -> Measured:
    """Train a series by `model: auto`; return the errors on its test part."""
    with tempfile.TemporaryDirectory() as home:
        values = task.read(folder)
        times = pd.date_range("2000-01-01", periods=len(values), freq=task.freq)
        pd.DataFrame({"ds": times, "y": values}).to_csv(Path(home) / "series.csv", index=False)
        raw = {
            "name": "auto",
            "data": {"source": "files", "path": str(Path(home) / "series.csv")},
            "freq": task.freq,
            "input_size": task.input_size,
            "horizon": task.horizon,
            "model": "auto",
            "fit": {"minutes": minutes},
            # they size the intervals, which are not measured here
            "folds": 0,
        }
        config = build_config(raw | dict(task.changes), TrainConfig, task.name)
        dataset = load_dataset(config)
        choice = choose_recipe(config, dataset, Path(home))
        parts = split(choice.config, prepare_again(choice.config, dataset).series)
        found = evaluate(choice.config, parts, Path(home)).metrics["mae"]
    return Measured(choice.name, found, closed_forms(task, parts))


def closed_forms(task: Task, parts: dict[str, Windows]) -> dict[str, float]:
    """Return the test errors of the closed forms, fitted on the train part."""
    inputs, actual = parts["test"].inputs().target, parts["test"].targets()
    forecasts = {
        "ridge": ridge_forecast(parts["train"], parts["test"]),
        "seasonal naive": seasonal_naive(inputs, task.horizon, task.season),
        "last value": last_value(inputs, task.horizon),
    }
    return {name: mae(actual, forecast) for name, forecast in forecasts.items()}


def rows(group: str, task: Task, found: Measured) -> Iterator[Row]:
    """Yield the errors of a series, and the ratio that has a bar."""
    for name, error in found.closed.items():
        yield Row(f"{task.name}: {name}", error, None, "MAE")
    yield Row(f"{task.name}: auto ({found.chosen})", found.mae, None, "MAE")
    yield Row(f"{task.name}, {group}: over the better of ridge and seasonal naive", found.ratio, BAR, "ratio")


def main() -> int:
    """Measure every series and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.auto",
        description=__doc__,
        epilog="example:\n  python -m benchmarks.auto --data ~/data --only sunspots",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="folder with classic/, m4/, exchange_rate/ and ett/"
    )
    parser.add_argument(
        "--only", metavar="WORD", nargs="+", default=(), help="only series whose name contains a word (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="time for each choice (default: %(default)s)")
    arguments = parser.parse_args()
    found: list[Row] = []
    for group, tasks in (("classic", CLASSIC), ("held back", HELD_BACK)):
        chosen = _named(tasks, arguments.only)
        for task in tqdm(chosen, unit="series", desc=group, dynamic_ncols=True):
            found += rows(group, task, measure(task, arguments.data, arguments.minutes))
    return report(found)


def _named(tasks: Sequence[Task], words: Sequence[str]) -> list[Task]:
    return [task for task in tasks if not words or any(word in task.name for word in words)]


if __name__ == "__main__":
    sys.exit(main())
