"""Choose a benchmark's learning rate on the validation part: `python -m benchmarks.choose --task two-sines`.

Each rate of the task's grid is tried with each many-to-one cell and the configuration's seed. The rate with the
smallest error on the validation part, averaged over the cells, is chosen; no recipe is given the test part. Every error
is written to `benchmarks/results/choose-TASK.jsonl`, and a test compares the configuration with what is chosen there.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy import TASKS, on_all_cores, parse, runs_of
from benchmarks.report import Row, report
from forecaster.domain.errors import ForecasterError
from forecaster.domain.exits import FAILED
from forecaster.evaluation.metrics import rmse
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.stages import fit_recipe

RESULTS = Path(__file__).parent / "results"
# so wide that the chosen rate is not at an end
GRIDS = {"two-sines": (0.003, 0.006, 0.012, 0.024), "daily-close": (0.0005, 0.002, 0.008, 0.032, 0.128)}


@dataclass(frozen=True)
class Try:
    """A setting that was tried, and its root mean squared error on the validation part."""

    learning_rate: float
    cell: str
    seed: int
    validation_rmse: float


def log_of(task: str) -> Path:
    """Return the file that a task's tries are kept in."""
    return RESULTS / f"choose-{task}.jsonl"


def read_log(task: str) -> list[Try]:
    """Return the tries that a task's setting was chosen from."""
    return [Try(**json.loads(line)) for line in log_of(task).read_text(encoding="utf-8").splitlines()]


def try_grid(task: str, data: Path | None) -> list[Try]:
    """Return a try for each learning rate and many-to-one cell of a task."""
    runs = [
        run
        for rate in GRIDS[task]
        for run in runs_of(TASKS[task], data, 1, [f"fit.learning_rate={rate}"])
        if run.contestant.topology == "many_to_one"
    ]
    errors = on_all_cores(validation_error, [run.config for run in runs])
    return [
        Try(run.config.fit.learning_rate, run.contestant.cell, run.config.seed, round(error, 7))
        for run, error in zip(runs, errors, strict=True)
    ]


def validation_error(config: TrainConfig) -> float:
    """Return the error on the validation part of a recipe that is given no test part."""
    parts = split(config, prepare(config, config.data.load()))
    del parts["test"]
    with tempfile.TemporaryDirectory() as checkpoints:
        trained = fit_recipe(config, parts, Path(checkpoints))[0]
    return rmse(parts["validation"].targets(), trained.forecast(parts["validation"]))


def mean_errors(tries: Sequence[Try]) -> dict[float, float]:
    """Return the mean error over the cells by learning rate."""
    rates = sorted({one.learning_rate for one in tries})
    return {rate: float(np.mean([one.validation_rmse for one in tries if one.learning_rate == rate])) for rate in rates}


def choose(tries: Sequence[Try]) -> float:
    """Return the learning rate with the smallest mean error."""
    errors = mean_errors(tries)
    return min(errors, key=errors.__getitem__)


def main() -> int:
    """Try a task's grid, write the log and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.choose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments = parse(parser, GRIDS)
    try:
        tries = try_grid(arguments.task, arguments.data)
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    log_of(arguments.task).write_text("".join(json.dumps(asdict(one)) + "\n" for one in tries), encoding="utf-8")
    rows = [Row(f"{one.learning_rate:g}, {one.cell}", one.validation_rmse, None, "RMSE") for one in tries]
    rows += [Row(f"{rate:g}, mean of the cells", error, None, "RMSE") for rate, error in mean_errors(tries).items()]
    return report([*rows, Row("chosen: fit.learning_rate", choose(tries), None, "")])


if __name__ == "__main__":
    sys.exit(main())
