"""Measure forecast accuracy on tasks with published results: `python -m benchmarks.accuracy --task two-sines`.

Each recipe is trained with five seeds: that of the configuration and the next four. The table shows the median, lowest
and highest error on the test part. The configurations are in `benchmarks/configs/`; `python -m benchmarks.choose`
selected their learning rates on the validation part.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks import long_horizon, m4
from benchmarks.parallel import on_all_cores
from benchmarks.report import Row, report
from forecaster.domain.config import load_config
from forecaster.domain.errors import ForecasterError
from forecaster.domain.exits import FAILED
from forecaster.domain.levels import LEVELS
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.stages import evaluate

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Contestant:
    """A recipe of a task, and the highest error allowed."""

    topology: str
    cell: str
    bar: float

    @property
    def name(self) -> str:
        return f"{self.topology} {self.cell}"


@dataclass(frozen=True)
class Task:
    """A data set and the recipes that are trained on it."""

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
            Contestant("many_to_one", "lstm", 0.0015),
            Contestant("many_to_one", "gru", 0.0015),
            Contestant("many_to_one", "simple_rnn", 0.0065),
            Contestant("many_to_many", "lstm", 0.0018),
            Contestant("many_to_many", "gru", 0.0018),
            Contestant("many_to_many", "simple_rnn", 0.0060),
        ),
        needs_data=False,
    ),
    # one day ahead on daily closes: the last close is nearly unbeatable, so the bar is not to be worse
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
    """Yield the runs of all contestants, seed by seed."""
    if data:
        changes = [*changes, f"data.path={json.dumps(str(data))}"]
    for number in range(n_seeds):
        for contestant in task.contestants:
            model = [f"model.topology={contestant.topology}", f"model.cell={contestant.cell}"]
            config = load_config(CONFIGS / task.config, TrainConfig, [*changes, *model])
            yield Run(contestant, config.model_copy(update={"seed": config.seed + number}))


def measure(task: Task, data: Path | None, n_seeds: int) -> Iterator[Row]:
    """Yield the last value's error on the test part, then that of each contestant."""
    runs = list(runs_of(task, data, n_seeds))
    found: dict[Contestant, list[dict[str, float]]] = {contestant: [] for contestant in task.contestants}
    for run, metrics in zip(runs, on_all_cores(measured, [run.config for run in runs]), strict=True):
        found[run.contestant].append(metrics)
        tqdm.write(f"{run.label}: {_figure(task, metrics):.5g}", file=sys.stderr)
    naive = 1.0 if task.unit == "relative_mae" else found[task.contestants[0]][0]["naive-rmse"] ** 2
    yield Row("last value", naive, None, task.unit)
    for contestant, each in found.items():
        yield Row.of_runs(contestant.name, [_figure(task, metrics) for metrics in each], contestant.bar, task.unit)
        for level in LEVELS:
            if data and all(f"coverage-{level}" in metrics for metrics in each):
                shares = [metrics[f"coverage-{level}"] for metrics in each]
                yield Row.of_runs(f"{contestant.name}, coverage at {level} %", shares, None, "share")


def measured(config: TrainConfig) -> dict[str, float]:
    """Train a recipe; return its metrics on the test part."""
    series = prepare(config, config.data.load())
    with tempfile.TemporaryDirectory() as checkpoints:
        return evaluate(config, split(config, series), Path(checkpoints)).metrics


def _figure(task: Task, metrics: dict[str, float]) -> float:
    return metrics["relative_mae"] if task.unit == "relative_mae" else metrics["rmse"] ** 2


def parse(parser: argparse.ArgumentParser, tasks: Iterable[str]) -> argparse.Namespace:
    """Add `--task` and `--data` to a parser, and return its arguments."""
    parser.add_argument("--task", required=True, choices=tasks, help="task to run")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        help="prices in Yahoo's CSV format for daily-close; ETTh1.csv; exchange_rate.txt.gz; the folder of M4's files",
    )
    arguments = parser.parse_args()
    needs_data = arguments.task not in TASKS or TASKS[arguments.task].needs_data
    if needs_data != (arguments.data is not None):
        parser.error(f"--data is {'required' if needs_data else 'not allowed'} for the task {arguments.task}")
    return arguments


def rows_of(task: str, data: Path | None, n_seeds: int) -> Iterator[Row]:
    """Return the rows of a task's table."""
    if data is None or task in TASKS:
        return measure(TASKS[task], data, n_seeds)
    if task in m4.TASKS:
        return m4.measure(m4.TASKS[task], data, n_seeds)
    return long_horizon.measure(long_horizon.TASKS[task], data, n_seeds)


def main() -> int:
    """Run a task and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.accuracy --task two-sines\n"
        "  python -m benchmarks.accuracy --task daily-close --data SPY.csv\n"
        "  python -m benchmarks.accuracy --task etth1-96 --data ETTh1.csv --seeds 3\n"
        "  python -m benchmarks.accuracy --task m4-hourly --data m4 --seeds 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    arguments = parse(parser, [*TASKS, *long_horizon.TASKS, *m4.TASKS])
    try:
        return report(list(rows_of(arguments.task, arguments.data, arguments.seeds)))
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
