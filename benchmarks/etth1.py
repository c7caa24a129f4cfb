"""ETTh1 as papers measure it: seven channels, standardized by the train part, and every window of 2,880 test rows.

Source of the protocol: Zhou et al. (2021), arXiv 2012.07436, section 4.1, with the 12, 4 and 4 months of later papers.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.parallel import on_all_cores
from benchmarks.report import Row
from forecaster.data.windows import Windows
from forecaster.domain.config import load_config
from forecaster.domain.series import UNIQUE_ID, Floats, Series, Y
from forecaster.evaluation.metrics import mae, rmse
from forecaster.evaluation.ridge import fit_ridge
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.stages import fit_recipe

CONFIGS = Path(__file__).parent / "configs"
# first and last row of each part
BORDERS = {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}


@dataclass(frozen=True)
class Task:
    """A recipe, the largest errors and training time allowed, and the best published errors of a recurrent network."""

    config: str
    mse: float
    mae: float
    seconds: float
    published: tuple[float, float]


# SegRNN: Lin et al. (2023), arXiv 2308.11200, with a lookback of 96 as reported by later papers
TASKS = {"etth1-96": Task("etth1-96.yaml", 0.373, 0.395, 180, (0.368, 0.395))}


@dataclass(frozen=True)
class Errors:
    """Errors on a part, in standard deviations of the train part."""

    mse: float
    mae: float

    @classmethod
    def between(cls, actual: Floats, forecast: Floats) -> "Errors":
        return cls(rmse(actual, forecast) ** 2, mae(actual, forecast))


@dataclass(frozen=True)
class Result:
    """What a training yields: errors by part, and its time in seconds."""

    validation: Errors
    test: Errors
    seconds: float


def load(config: TrainConfig) -> Series:
    """Return the seven channels in standard deviations of their train rows."""
    frame = config.load().groupby(UNIQUE_ID, sort=False).head(BORDERS["test"][1]).reset_index(drop=True)
    by_channel = frame.groupby(UNIQUE_ID, sort=False)[Y]
    train = by_channel.head(BORDERS["train"][1]).groupby(frame[UNIQUE_ID])
    mean, deviation = (frame[UNIQUE_ID].map(moment) for moment in (train.mean(), train.std(ddof=0)))
    return prepare(config, frame.assign(y=(frame[Y] - mean) / deviation))


def cut(config: TrainConfig, series: Series) -> dict[str, Windows]:
    """Return the windows of each part; the targets of the first follow the part before."""
    parts = {}
    for name, (begin, end) in BORDERS.items():
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


def measured(config: TrainConfig) -> Result:
    """Fit a recipe, stopped by the validation part; return its errors."""
    begin = time.perf_counter()
    parts = cut(config, load(config))
    with tempfile.TemporaryDirectory() as checkpoints:
        # the calibration sizes intervals, which are not measured here
        trained, *_ = fit_recipe(config, parts | {"calibration": parts["validation"]}, Path(checkpoints))
    seconds = time.perf_counter() - begin
    validation, test = (
        Errors.between(parts[name].targets(), trained.forecast(parts[name]).mean) for name in ("validation", "test")
    )
    return Result(validation, test, seconds)


def ridge(config: TrainConfig) -> Errors:
    """Return the test errors of a ridge regression for all channels."""
    parts = cut(config.model_copy(update={"step_size": 1}), load(config))
    train, test = parts["train"], parts["test"]
    fitted = fit_ridge((train.inputs(index).target, train.targets(index)) for index in train.chunks(4096))
    return Errors.between(test.targets(), fitted.predict(test.inputs().target))


def measure(task: Task, file: Path, n_seeds: int) -> Iterator[Row]:
    """Yield the errors of the closed form and the published ones, then the recipe's, with its training time."""
    config = load_config(CONFIGS / task.config, TrainConfig, [f"data.path={json.dumps(str(file))}"])
    closed, published = ridge(config), Errors(*task.published)
    for name in ("mse", "mae"):
        yield Row(f"ridge, {name.upper()}", getattr(closed, name), None, "")
        yield Row(f"SegRNN, published, {name.upper()}", getattr(published, name), None, "")
    configs = [config.model_copy(update={"seed": config.seed + number}) for number in range(n_seeds)]
    results = list(on_all_cores(measured, configs))
    for part in ("validation", "test"):
        for name in ("mse", "mae"):
            values = [getattr(getattr(result, part), name) for result in results]
            yield Row.of_runs(f"{part}, {name.upper()}", values, getattr(task, name) if part == "test" else None, "")
    yield Row.of_runs("training", [result.seconds for result in results], task.seconds, "s")
