"""Long horizons as papers measure them: channels in deviations of the train part, every window of the test part.

Source of the protocol: Zhou et al. (2021), arXiv 2012.07436, section 4.1; of the exchange rates, Wu et al. (2021),
arXiv 2106.13008, section 4.
"""

import json
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
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.metrics import mae, rmse
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.stages import fit_network

CONFIGS = Path(__file__).parent / "configs"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataSet:
    """A table of channels.

    Args:
        file: the name of its file.
        ends: the last row of each part, exclusive.
        has_header: whether the first line names the channels, and the first column has the times.
    """

    file: str
    ends: tuple[int, int, int]
    has_header: bool


# 12, 4 and 4 months; 70, 10 and 20 %
ETTH1 = DataSet("ETTh1.csv", (8640, 11520, 14400), has_header=True)
EXCHANGE = DataSet("exchange_rate.txt.gz", (5311, 6071, 7588), has_header=False)


@dataclass(frozen=True)
class Horizon:
    """What is required of a horizon, and what its recipe changes.

    Args:
        mse: the largest mean squared error; None for the ridge regression's.
        mae: the largest mean absolute error, or None.
        published: the MSE of the best published recurrent network; None if it is far behind the last value.
        is_ridge_alone: whether the network is left out, because the ridge by itself is better on the validation part.
    """

    mse: float | None = None
    mae: float | None = None
    published: float | None = None
    is_ridge_alone: bool = False


@dataclass(frozen=True)
class Task:
    """A recipe, its data set, what is required of each horizon, and the longest training time in seconds."""

    config: str
    data: DataSet
    horizons: dict[int, Horizon]
    seconds: float | None = None


# SegRNN: Lin et al. (2023), arXiv 2308.11200, with a lookback of 96 as later papers report it, and of 720
TASKS = {
    "etth1-96": Task("etth1-96.yaml", ETTH1, {96: Horizon(0.373, 0.395, published=0.368)}, seconds=180),
    "etth1-best": Task(
        "etth1-best.yaml",
        ETTH1,
        {
            96: Horizon(0.362, published=0.351),
            192: Horizon(published=0.392, is_ridge_alone=True),
            336: Horizon(published=0.423, is_ridge_alone=True),
            720: Horizon(published=0.466, is_ridge_alone=True),
        },
    ),
    "exchange": Task("exchange.yaml", EXCHANGE, {96: Horizon(0.0815)}),
}


@dataclass(frozen=True)
class Errors:
    """Errors on a part, in standard deviations of the train part."""

    mse: float
    mae: float

    @classmethod
    def between(cls, actual: Floats, forecast: Floats) -> "Errors":
        return cls(rmse(actual, forecast) ** 2, mae(actual, forecast))


def load(config: TrainConfig, data: DataSet) -> Series:
    """Return the channels in standard deviations of their train rows."""
    path = Path(config.data.location)
    table = pd.read_csv(path, index_col=0) if data.has_header else pd.read_csv(path, header=None)
    values = table.to_numpy(np.float64)[: data.ends[-1]]
    train = values[: data.ends[0]]
    scaled = (values - train.mean(axis=0)) / train.std(axis=0)
    # the exchange rates have no times, and no network reads them
    hours = pd.date_range("2016-07-01", periods=len(values), freq="h")
    channels = [
        pd.DataFrame({UNIQUE_ID: str(name), DS: hours, Y: column})
        for name, column in zip(table.columns, scaled.T, strict=True)
    ]
    return prepare(config, pd.concat(channels, ignore_index=True))


def cut(config: TrainConfig, data: DataSet, series: Series) -> dict[str, Windows]:
    """Return the windows of each part; the targets of the first follow the part before."""
    parts = {}
    for name, begin, end in zip(PARTS, (0, *data.ends), data.ends, strict=False):
        step_size = config.step_size if name == "train" else 1
        first = max(0, begin - config.input_size)
        count = (end - first - config.input_size - config.horizon) // step_size + 1
        parts[name] = Windows.over(
            series,
            series.bounds[:-1] + first,
            np.full(len(series), count),
            np.arange(len(series)),
            input_size=config.input_size,
            horizon=config.horizon,
            step_size=step_size,
        )
    return parts


def data_of(config: TrainConfig) -> DataSet:
    """Return the data set of a recipe's file."""
    return next(data for data in (ETTH1, EXCHANGE) if data.file == Path(config.data.location).name)


def measured(config: TrainConfig) -> Result[Errors]:
    """Fit a recipe, stopped by the validation part; return its errors."""
    begin, data = time.perf_counter(), data_of(config)
    parts = cut(config, data, load(config, data))
    with tempfile.TemporaryDirectory() as checkpoints:
        trained, _ = fit_network(config, parts, Path(checkpoints))
    seconds = time.perf_counter() - begin
    errors = {name: Errors.between(parts[name].targets(), trained.forecast(parts[name]).mean) for name in PARTS[1:]}
    return Result(errors["validation"], errors["test"], seconds, used_memory())


def closed_forms(config: TrainConfig) -> dict[str, Errors]:
    """Return the test errors of the last value, and of a ridge regression for all channels."""
    data = data_of(config)
    parts = cut(config.model_copy(update={"step_size": 1}), data, load(config, data))
    train, test = parts["train"], parts["test"]
    naive = last_value(test.inputs().target, config.horizon)
    forecasts = {"last value": naive, "ridge": ridge_forecast(train, test)}
    return {name: Errors.between(test.targets(), forecast) for name, forecast in forecasts.items()}


def measure(task: Task, file: Path, n_seeds: int) -> Iterator[Row]:
    """Yield the rows of each horizon."""
    for horizon, required in task.horizons.items():
        yield from _measure_horizon(task, file, n_seeds, horizon, required)


def _measure_horizon(task: Task, file: Path, n_seeds: int, horizon: int, required: Horizon) -> Iterator[Row]:
    """Yield the errors of the closed forms and the published one, then the recipe's, with its time and memory."""
    changes = [f"data.path={json.dumps(str(file))}", f"horizon={horizon}"]
    if required.is_ridge_alone:
        # every window, which only a network takes long to learn from
        changes += ["fit.epochs=0", "step_size=1"]
        n_seeds = 1
    config = load_config(CONFIGS / task.config, TrainConfig, changes)
    known = closed_forms(config)
    for method, errors in known.items():
        for name in ("mse", "mae"):
            yield Row(f"{horizon}: {method}, {name.upper()}", getattr(errors, name), None, "")
    if required.published:
        yield Row(f"{horizon}: SegRNN, published, MSE", required.published, None, "")
    configs = [config.model_copy(update={"seed": config.seed + number}) for number in range(n_seeds)]
    results = list(on_all_cores(measured, configs))
    # a recipe computes its ridge in single precision
    bars = {"mse": required.mse or known["ridge"].mse * 1.0005, "mae": required.mae}
    yield from rows_of(results, bars, task.seconds, f"{horizon}: ")
