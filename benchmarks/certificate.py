"""Time the leakage audit relative to its training: `python -m benchmarks.certificate`.

It runs the recipes of `pipelines/configs/sine.yaml` and `stock.yaml`, the latter on synthetic prices. The audit may
take a fifth of the training, which is the fit, the evaluation and the refit.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.report import Row, report
from forecaster.data.windows import cut_windows
from forecaster.domain.config import load_config
from forecaster.domain.series import Floats
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.leakage import certify
from forecaster.training.stages import evaluate, refit

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
# as many rows as SPY and AAPL have since 2010
PRICES = "data={source: random_walk, n_series: 2, length: 4000}"
RECIPES: dict[str, list[str]] = {"sine": [], "stock": [PRICES, "freq=null"]}
SHARE = 0.2


def clock() -> Floats:
    """Return wall time and CPU time of this process in seconds, `(2,)`."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds(config: TrainConfig) -> tuple[Floats, Floats]:
    """Return wall and CPU time of a training and of its audit, in seconds, `(2,)` each."""
    frame = config.data.load()
    start = clock()
    series = prepare(config, frame)
    with TemporaryDirectory() as folder:
        evaluated = evaluate(config, split(config, series), Path(folder))
        seen = cut_windows(series, config.input_size, config.horizon, config.step_size)
        served = refit(config, seen, evaluated.history.best_epoch + 1, Path(folder))
    middle = clock()
    certify(config, frame, evaluated, served)
    return middle - start, clock() - middle


def measure() -> Iterator[Row]:
    """Yield the times of each recipe, and the ratio of audit to training."""
    # warm up: the first network of a process takes longer
    seconds(load_config(CONFIGS / "sine.yaml", TrainConfig, ["fit.epochs=1", "data.length=800"], section="train"))
    for name, changes in RECIPES.items():
        config = load_config(CONFIGS / f"{name}.yaml", TrainConfig, changes, section="train")
        training, audit = seconds(config)
        # other load on the machine affects wall time more than CPU time
        for number, unit in enumerate(("s", "core s")):
            yield Row(f"{name}, training", training[number], None, unit)
            yield Row(f"{name}, audit", audit[number], None, unit)
            yield Row(f"{name}, audit over training, in {unit}", audit[number] / training[number], SHARE, "ratio")


def main() -> int:
    """Measure both recipes and print the table."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.certificate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    return report(list(measure()))


if __name__ == "__main__":
    sys.exit(main())
