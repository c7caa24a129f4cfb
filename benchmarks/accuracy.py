"""How good the forecasts are, on tasks with published figures: `python -m benchmarks.accuracy --task two-sines`.

Every setting and seed is in `benchmarks/configs/`. Settings were chosen on the validation part; the test part is what
is printed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Row, report
from forecaster.data.windows import split_windows
from forecaster.domain.config import load_config
from forecaster.domain.errors import ForecasterError
from forecaster.domain.exits import FAILED
from forecaster.training.recipe import TrainConfig, prepare
from forecaster.training.stages import Evaluated, evaluate

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Contestant:
    """A recipe within a task, and the most that its figure may be."""

    topology: str
    cell: str
    bar: float


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


def measure(task: Task, data: Path | None) -> Iterator[Row]:
    """Yield each contestant's figure on the test part, after the last value's."""
    for number, contestant in enumerate(task.contestants):
        changes = [f"model.topology={contestant.topology}", f"model.cell={contestant.cell}"]
        if data:
            changes.append(f"data.path={json.dumps(str(data))}")
        metrics = _evaluate(load_config(CONFIGS / task.config, TrainConfig, changes)).metrics
        if task.unit == "MSE":
            value, naive = metrics["rmse"] ** 2, metrics["naive-rmse"] ** 2
        else:
            value, naive = metrics["relative_mae"], 1.0
        if number == 0:
            yield Row("last value", naive, None, task.unit)
        name = f"{contestant.topology} {contestant.cell}"
        yield Row(name, value, contestant.bar, task.unit)
        for level in ("80", "95"):
            if data and f"coverage-{level}" in metrics:
                yield Row(f"{name}, coverage at {level} %", metrics[f"coverage-{level}"], None, "share")


def _evaluate(config: TrainConfig) -> Evaluated:
    series = prepare(config, config.data.load())
    parts = split_windows(series, config.split, config.input_size, config.horizon, config.step_size)
    with tempfile.TemporaryDirectory() as checkpoints:
        return evaluate(config, parts, Path(checkpoints))


def main() -> int:
    """Run one task."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.accuracy --task two-sines\n"
        "  python -m benchmarks.accuracy --task daily-close --data SPY.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=TASKS, help="which task")
    parser.add_argument("--data", type=Path, help="the price file of the daily-close task, in Yahoo's CSV format")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    if task.needs_data != (arguments.data is not None):
        parser.error(f"--data is {'needed by' if task.needs_data else 'not for'} the task {arguments.task}")
    try:
        report(list(measure(task, arguments.data)))
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
