"""How good the forecasts are, on tasks with published figures: `python -m benchmarks.accuracy --task two-sines`.

Each recipe is trained with five seeds: the configuration's and the four after it. The table has the median of their
figures on the test part, the lowest and the highest. Settings are in `benchmarks/configs/`; the learning rates were
chosen on the validation part by `python -m benchmarks.choose`.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from benchmarks.report import Row, report
from forecaster.domain.config import load_config
from forecaster.domain.errors import ForecasterError
from forecaster.domain.exits import FAILED
from forecaster.domain.levels import LEVELS
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.stages import evaluate

CONFIGS = Path(__file__).parent / "configs"
T = TypeVar("T")


@dataclass(frozen=True)
class Contestant:
    """A recipe within a task, and the most that its figure may be."""

    topology: str
    cell: str
    bar: float

    @property
    def name(self) -> str:
        return f"{self.topology} {self.cell}"


@dataclass(frozen=True)
class Task:
    """A data set and the recipes that are tried on it."""

    config: str
    unit: str
    contestants: tuple[Contestant, ...]
    needs_data: bool


TASKS = {
    # Géron (2022), Hands-On Machine Learning, chapter 15: two random sines and uniform noise, 50 steps in, 10 out
    "two-sines": Task(
        "two-sines.yaml",
        "MSE",
        (
            Contestant("many_to_one", "lstm", 0.0035),
            Contestant("many_to_one", "gru", 0.0035),
            Contestant("many_to_one", "simple_rnn", 0.0065),
            Contestant("many_to_many", "lstm", 0.0060),
            Contestant("many_to_many", "gru", 0.0060),
            Contestant("many_to_many", "simple_rnn", 0.0060),
        ),
        needs_data=False,
    ),
    # one step ahead on daily closes, where nobody beats the last close honestly: the bar is to do no harm
    "daily-close": Task(
        "daily-close.yaml",
        "relative_mae",
        tuple(Contestant("many_to_one", cell, 1.02) for cell in ("lstm", "gru", "simple_rnn")),
        needs_data=True,
    ),
}


@dataclass(frozen=True)
class Run:
    """A contestant's recipe with one seed."""

    contestant: Contestant
    config: TrainConfig

    @property
    def label(self) -> str:
        return f"{self.contestant.name}, seed {self.config.seed}"


def runs_of(task: Task, data: Path | None, n_seeds: int, changes: Sequence[str] = ()) -> Iterator[Run]:
    """Yield every contestant's run with the first seed, then with the next."""
    if data:
        changes = [*changes, f"data.path={json.dumps(str(data))}"]
    for number in range(n_seeds):
        for contestant in task.contestants:
            model = [f"model.topology={contestant.topology}", f"model.cell={contestant.cell}"]
            config = load_config(CONFIGS / task.config, TrainConfig, [*changes, *model])
            yield Run(contestant, config.model_copy(update={"seed": config.seed + number}))


def measure(task: Task, data: Path | None, n_seeds: int) -> Iterator[Row]:
    """Yield each contestant's figures on the test part, after the last value's."""
    runs = list(runs_of(task, data, n_seeds))
    found: dict[Contestant, list[dict[str, float]]] = {contestant: [] for contestant in task.contestants}
    for run, metrics in zip(runs, on_all_cores(measured, [run.config for run in runs]), strict=True):
        found[run.contestant].append(metrics)
        tqdm.write(f"{run.label}: {_figure(task, metrics):.5g}", file=sys.stderr)
    naive = 1.0 if task.unit == "relative_mae" else found[task.contestants[0]][0]["naive-rmse"] ** 2
    yield Row("last value", naive, None, task.unit)
    for contestant, each in found.items():
        yield _row(contestant.name, [_figure(task, metrics) for metrics in each], contestant.bar, task.unit)
        for level in LEVELS:
            if data and all(f"coverage-{level}" in metrics for metrics in each):
                shares = [metrics[f"coverage-{level}"] for metrics in each]
                yield _row(f"{contestant.name}, coverage at {level} %", shares, None, "share")


def measured(config: TrainConfig) -> dict[str, float]:
    """Return what a training measures, on the test part above all."""
    series = prepare(config, config.data.load())
    with tempfile.TemporaryDirectory() as checkpoints:
        return evaluate(config, split(config, series), Path(checkpoints)).metrics


def on_all_cores(function: Callable[[TrainConfig], T], configs: Sequence[TrainConfig]) -> Iterator[T]:
    """Yield the function's answer for each recipe, in order, with a training at a time on each core."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from tqdm(pool.map(function, configs), total=len(configs), unit="training", dynamic_ncols=True)


def _figure(task: Task, metrics: dict[str, float]) -> float:
    return metrics["relative_mae"] if task.unit == "relative_mae" else metrics["rmse"] ** 2


def _row(name: str, values: list[float], bar: float | None, unit: str) -> Row:
    return Row(name, statistics.median(values), bar, unit, extremes=(min(values), max(values)))


def parse(parser: argparse.ArgumentParser, tasks: Iterable[str]) -> argparse.Namespace:
    """Return the command line's arguments: a task, its data if it needs any, and what the parser has already."""
    parser.add_argument("--task", required=True, choices=tasks, help="which task")
    parser.add_argument("--data", type=Path, help="the price file of the daily-close task, in Yahoo's CSV format")
    arguments = parser.parse_args()
    needs_data = TASKS[arguments.task].needs_data
    if needs_data != (arguments.data is not None):
        parser.error(f"--data is {'needed by' if needs_data else 'not for'} the task {arguments.task}")
    return arguments


def main() -> int:
    """Run one task."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.accuracy --task two-sines\n"
        "  python -m benchmarks.accuracy --task daily-close --data SPY.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds (default: %(default)s)")
    arguments = parse(parser, TASKS)
    try:
        return report(list(measure(TASKS[arguments.task], arguments.data, arguments.seeds)))
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
