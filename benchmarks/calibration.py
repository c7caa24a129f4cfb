"""Do intervals cover what they promise? `python -m benchmarks.calibration --data FOLDER` on real files and on sines.

The last third of each series is held back: a GRU is fitted and calibrated on the first two thirds and forecasts every
origin of the last, without a refit. Beside it stand the bounds of a random walk of the window's volatility.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.report import Row, report
from forecaster.domain.config import load_config
from forecaster.lifecycle.backtest import BacktestConfig, backtest
from forecaster.lifecycle.report import score
from forecaster.training.recipe import TrainConfig, prepare

CONFIG = Path(__file__).parent / "configs" / "calibration.yaml"
LEVELS = (80, 95)
TOLERANCE = 0.02
PRICES = ["transforms=[{kind: log}, {kind: last_value}, {kind: standardize}]"]


@dataclass(frozen=True)
class Task:
    """A series, the changes of the configuration that it needs, and whether it is a price."""

    name: str
    data: dict[str, object]
    changes: tuple[str, ...] = ()
    is_price: bool = False


def tasks(folder: Path | None) -> Iterator[Task]:
    """Yield the sines, and where there is a folder the real series in it."""
    sines = [{"amplitude": 1, "period": 24}, {"amplitude": 0.5, "period": 60}]
    yield Task("sines", {"source": "sine", "length": 6000, "sines": sines}, ("freq=h", "intervals=constant"))
    if folder is None:
        return
    for name, file in (
        ("SPY", "stock/yahoofinance-SPY-20080101-20180101.csv"),
        ("AAPL", "stock/yahoofinance-AAPL-20040819-20180120.csv"),
        ("KO", "stock/djia-KO_2006-01-01_to_2018-01-01.csv"),
        ("VIX", "stock/vix-daily.csv"),
    ):
        yield Task(name, {"source": "files", "path": str(folder / file)}, tuple(PRICES), is_price=True)
    columns = {"ds": "date", "y": "OT"}
    yield Task("ETTh1 OT", {"source": "files", "path": str(folder / "ett/ETTh1.csv"), "columns": columns}, ("freq=h",))


def rows(task: Task) -> Iterator[Row]:
    """Yield a task's figures: how far each coverage is from its level, interval scores beside the baseline's."""
    config = load_config(CONFIG, TrainConfig, [f"data={json.dumps(task.data)}", *task.changes])
    series = prepare(config, config.data.load())
    trial = BacktestConfig(n_windows=len(series.values) // 3 - config.horizon, baselines=("naive",))
    with tempfile.TemporaryDirectory() as folder:
        figures = score(backtest(config, trial, series, Path(folder)), trial, series)
    for level in LEVELS:
        for kind in ("", "-adaptive"):
            name = f"coverage-{level}{kind}"
            allowed = max(TOLERANCE, 2 * figures[f"{name}-error"])
            off = abs(figures[name] - level / 100)
            yield Row(f"{task.name}: {name} {figures[name]:.3f}, off by", off, allowed, "share")
        ratio = figures[f"winkler-{level}"] / figures[f"naive-winkler-{level}"]
        yield Row(f"{task.name}: winkler-{level} over a random walk's", ratio, 1.0 if task.is_price else None, "ratio")


def main() -> int:
    """Measure every task and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with stock/ and ett/; the sines alone without it")
    arguments = parser.parse_args()
    found: list[Row] = []
    for task in tqdm(list(tasks(arguments.data)), unit="series", dynamic_ncols=True):
        found += rows(task)
    return report(found)


if __name__ == "__main__":
    sys.exit(main())
