"""M4 Hourly: one network for 414 series of 700 or 960 hours, for the 48 hours that the competition held back.

Source of data and measures: Makridakis, Spiliotis & Assimakopoulos (2020), doi:10.1016/j.ijforecast.2019.04.014.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.parallel import on_all_cores
from benchmarks.report import Row
from benchmarks.trainings import Result, ridge_forecast, rows_of, used_memory
from forecaster.data.windows import Windows
from forecaster.domain.config import load_config
from forecaster.domain.series import DS, UNIQUE_ID, Floats, Series, Y
from forecaster.evaluation.baselines import seasonal_naive
from forecaster.evaluation.metrics import mase, naive_scale, smape
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.stages import fit_network, refit

CONFIGS = Path(__file__).parent / "configs"
DAY, HORIZON = 24, 48
# the last known rows of each series, whose windows choose the epoch, and the rows between these windows
VALIDATION, STRIDE = 96, 24


@dataclass(frozen=True)
class Task:
    """A recipe, the largest errors and training time allowed, and the published errors of the competition's winner."""

    config: str
    smape: float
    mase: float
    seconds: float
    published: tuple[float, float]


# ES-RNN, an ensemble: Smyl (2020), doi:10.1016/j.ijforecast.2019.03.017
TASKS = {"m4-hourly": Task("m4-hourly.yaml", 11.5, 1.0, 600, (9.33, 0.893))}


@dataclass(frozen=True)
class Errors:
    """Errors over the windows of a part: sMAPE in percent, and MASE by the seasonal differences of the known rows."""

    smape: float
    mase: float


def load(folder: Path) -> pd.DataFrame:
    """Return all series as a long frame; the last 48 rows of each are those held back."""
    known = pd.read_csv(folder / "Hourly-train.csv.gz", index_col=0)
    held_back = pd.read_csv(folder / "Hourly-test.csv", index_col=0).loc[known.index]
    series = {
        name: np.concatenate([known.loc[name].dropna().to_numpy(float), held_back.loc[name].to_numpy(float)])
        for name in known.index
    }
    # the file has no times; all series end together
    hours = pd.date_range("2000-01-01", periods=max(map(len, series.values())), freq="h")
    tables = [pd.DataFrame({UNIQUE_ID: name, DS: hours[-len(y) :], Y: y}) for name, y in series.items()]
    return pd.concat(tables, ignore_index=True)


def cut(config: TrainConfig, series: Series) -> dict[str, Windows]:
    """Return the windows of each part; `known` are those of all rows that are not held back."""
    ends = {"train": HORIZON + VALIDATION, "validation": HORIZON, "known": HORIZON, "test": 0}
    strides = {"validation": STRIDE, "test": 1}
    length = config.input_size + config.horizon
    parts = {}
    for name, kept in ends.items():
        last, stride = series.bounds[1:] - kept, strides.get(name, config.step_size)
        rows = {"validation": config.input_size + VALIDATION, "test": length}
        first = last - rows[name] if name in rows else series.bounds[:-1]
        # the last window ends at the last row
        first = first + (last - first - length) % stride
        parts[name] = Windows.over(
            series,
            first,
            (last - first - length) // stride + 1,
            np.arange(len(series)),
            input_size=config.input_size,
            horizon=config.horizon,
            step_size=stride,
        )
    return parts


def errors(series: Series, windows: Windows, forecast: Floats) -> Errors:
    """Return the errors of forecasts `(n, horizon)` of these windows."""
    scales = np.array([naive_scale(series.values[rows, 0][:-HORIZON], DAY) for _, rows in series])
    owners = windows.owners_of(np.arange(len(windows)))
    return Errors(smape(windows.targets(), forecast), mase(windows.targets(), forecast, scales[owners]))


def measured(config: TrainConfig) -> Result[Errors]:
    """Fit a recipe, stopped by the validation part; refit it on all known rows; return its errors."""
    series = prepare(config, load(Path(config.data.location)))
    begin = time.perf_counter()
    parts = cut(config, series)
    with tempfile.TemporaryDirectory() as folder:
        fitted, history = fit_network(config, parts, Path(folder))
        served = refit(config, parts["known"], history.best_epoch + 1, Path(folder))
    seconds = time.perf_counter() - begin
    validation = errors(series, parts["validation"], fitted.forecast(parts["validation"]).mean)
    test = errors(series, parts["test"], served.forecast(parts["test"]).mean)
    return Result(validation, test, seconds, used_memory())


def closed_forms(config: TrainConfig) -> dict[str, Errors]:
    """Return the test errors of the last day, and of a ridge regression for all series."""
    series = prepare(config, load(Path(config.data.location)))
    parts = cut(config, series)
    known, test = parts["known"], parts["test"]
    last_day = seasonal_naive(test.inputs().target, HORIZON, DAY)
    return {"last day": errors(series, test, last_day), "ridge": errors(series, test, ridge_forecast(known, test))}


def measure(task: Task, folder: Path, n_seeds: int) -> Iterator[Row]:
    """Yield the errors of the closed forms and the published ones, then the recipe's, with its training time."""
    config = load_config(CONFIGS / task.config, TrainConfig, [f"data.path={folder}"])
    known = closed_forms(config) | {"ES-RNN, published": Errors(*task.published)}
    for name in ("smape", "mase"):
        for method, found in known.items():
            yield Row(f"{method}, {name.upper()}", getattr(found, name), None, "")
    results = list(on_all_cores(measured, [config.model_copy(update={"seed": n}) for n in range(n_seeds)]))
    yield from rows_of(results, {"smape": task.smape, "mase": task.mase}, task.seconds)


def main() -> None:
    """Write the known rows of all series as a table that a recipe can read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.m4", description=main.__doc__)
    parser.add_argument("--data", metavar="FOLDER", type=Path, required=True, help="the folder of the M4 files")
    parser.add_argument("--to", metavar="FILE", type=Path, required=True, help="the CSV file to write")
    arguments = parser.parse_args()
    frame = load(arguments.data)
    known = frame.groupby(UNIQUE_ID, sort=False).cumcount(ascending=False) >= HORIZON
    frame[known].to_csv(arguments.to, index=False)


if __name__ == "__main__":
    main()
