"""Select a benchmark's learning rate on the validation part: `python -m benchmarks.choose --task two-sines`.

Each learning rate of the task's grid is tried with each many-to-one cell and the configuration's seed. The rate with
the smallest mean error over the cells on the validation part is selected; the test part is not used. All errors are
written to `benchmarks/results/choose-TASK.jsonl`, and a test checks that the configuration has the selected rate.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy import TASKS, parse, runs_of
from benchmarks.parallel import on_all_cores
from benchmarks.report import Row, report
from forecaster.domain.errors import ForecasterError
from forecaster.domain.exits import FAILED
from forecaster.evaluation.metrics import rmse
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.stages import fit_recipe

RESULTS = Path(__file__).parent / "results"
# wide enough that the selected rate is not at an end
GRIDS = {"two-sines": (0.003, 0.006, 0.012, 0.024), "daily-close": (0.0005, 0.002, 0.008, 0.032, 0.128)}


@dataclass(frozen=True)
class Trial:
    """A learning rate tried with a cell and a seed, and its RMSE on the validation part."""

    learning_rate: float
    cell: str
    seed: int
    validation_rmse: float


def results_file(task: str) -> Path:
    """Return the file of a task's trials."""
    return RESULTS / f"choose-{task}.jsonl"


def read_trials(task: str) -> list[Trial]:
    """Return the stored trials of a task."""
    return [Trial(**json.loads(line)) for line in results_file(task).read_text(encoding="utf-8").splitlines()]


def run_trials(task: str, data: Path | None) -> list[Trial]:
    """Return a trial for each learning rate and many-to-one cell of a task."""
    runs = [
        run
        for rate in GRIDS[task]
        for run in runs_of(TASKS[task], data, 1, [f"fit.learning_rate={rate}"])
        if run.contestant.topology == "many_to_one"
    ]
    errors = on_all_cores(validation_error, [run.config for run in runs])
    return [
        Trial(run.config.fit.learning_rate, run.contestant.cell, run.config.seed, round(error, 7))
        for run, error in zip(runs, errors, strict=True)
    ]


def validation_error(config: TrainConfig) -> float:
    """Train a recipe without the test part; return its RMSE on the validation part."""
    parts = split(config, prepare(config, config.data.load()))
    del parts["test"]
    with tempfile.TemporaryDirectory() as checkpoints:
        trained = fit_recipe(config, parts, Path(checkpoints))[0]
    return rmse(parts["validation"].targets(), trained.forecast(parts["validation"]).mean)


def mean_errors(trials: Sequence[Trial]) -> dict[float, float]:
    """Return the mean error over the cells by learning rate."""
    by_rate: dict[float, list[float]] = {}
    for trial in trials:
        by_rate.setdefault(trial.learning_rate, []).append(trial.validation_rmse)
    return {rate: float(np.mean(errors)) for rate, errors in sorted(by_rate.items())}


def choose(trials: Sequence[Trial]) -> float:
    """Return the learning rate with the smallest mean error."""
    errors = mean_errors(trials)
    return min(errors, key=errors.__getitem__)


def main() -> int:
    """Run a task's trials, store them and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.choose",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.choose --task two-sines\n"
        "  python -m benchmarks.choose --task daily-close --data SPY.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments = parse(parser, GRIDS)
    try:
        trials = run_trials(arguments.task, arguments.data)
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    lines = "".join(json.dumps(asdict(trial)) + "\n" for trial in trials)
    results_file(arguments.task).write_text(lines, encoding="utf-8")
    rows = [Row(f"{trial.learning_rate:g}, {trial.cell}", trial.validation_rmse, None, "RMSE") for trial in trials]
    rows += [Row(f"{rate:g}, mean of the cells", error, None, "RMSE") for rate, error in mean_errors(trials).items()]
    return report([*rows, Row("selected: fit.learning_rate", choose(trials), None, "")])


if __name__ == "__main__":
    sys.exit(main())
