"""Measure how the cost of a training grows with the number of series: `python -m benchmarks.series`.

A GRU of 16 units is fitted to 100, 1,000 and 10,000 series of 500 rows as in a training: the long frame is checked, its
series are split, and windows of 30 rows are transformed and fitted in batches of 256, with a validation part and a
checkpoint after each epoch. Each size has a process of its own, which first fits the smallest size, so that neither
TensorFlow's own memory nor the compilation counts.

The data are the long frame, with 24 bytes per row, and the arrays of its series, with 16; a training holds both. The
memory is the peak of the process from the check of the frame to the end of the fit, less its memory before the frame.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.memory import peak_memory
from benchmarks.report import Row, report
from forecaster.domain.config import build_config
from forecaster.training import devices, networks, stages
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.examples import Examples
from forecaster.training.fit import fit

SAMPLE_SECONDS = 0.005
MOST_EXPONENT, MOST_MEMORY = 1.05, 1.5


@dataclass(frozen=True)
class Size:
    """The size of the benchmark.

    Args:
        series: the numbers of series, increasing.
        epochs: the measured epochs of each.
        rows: the rows of each series.
    """

    series: tuple[int, ...] = (100, 1_000, 10_000)
    epochs: tuple[int, ...] = (20, 5, 3)
    rows: int = 500


QUICK = Size((10, 20), (2, 2), 400)


@dataclass(frozen=True)
class Cost:
    """The cost of a training.

    Args:
        windows: the number of train windows.
        seconds: the time of each epoch.
        core_seconds: the CPU time of each epoch.
        preparation: the CPU time from the long frame to windows, in seconds.
        data: the bytes of the data.
        memory: the peak memory in bytes, with the data.
    """

    windows: int
    seconds: tuple[float, ...]
    core_seconds: tuple[float, ...]
    preparation: float
    data: int
    memory: int


def recipe(count: int, rows: int) -> TrainConfig:
    """Return the recipe for `count` series."""
    return build_config(
        {
            "name": "series",
            "data": {"source": "sine", "n_series": count, "length": rows, "sines": [{"period": [8, 40]}]},
            "freq": "h",
            "input_size": 30,
            "horizon": 5,
            # each row is the target of one window
            "step_size": 5,
            "transforms": [{"kind": "standardize"}],
            "model": {"cell": "gru", "widths": [16]},
            # so many that every size is compiled; the fit ends earlier
            "fit": {"epochs": 1000, "patience": 1000, "batch_size": 256},
        },
        TrainConfig,
        "benchmark",
    )


def train(config: TrainConfig, epochs: int) -> Cost:
    """Fit a recipe for some epochs."""
    before = psutil.Process().memory_info().rss
    frame = config.data.load()
    with peak_memory(os.getpid(), SAMPLE_SECONDS) as peak, tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        series = prepare(config, frame)
        parts = split(config, series)
        preparation = time.process_time() - start
        devices.prepare(config.seed, mixed_precision=False)
        preprocessing = stages.fit_preprocessing(config, parts["train"])
        train, validation = (Examples(parts[name], preprocessing, config.model) for name in ("train", "validation"))
        model = stages.compile_untrained(config, len(train), train.shape)
        ends = [(time.perf_counter(), time.process_time())]
        fit(
            model,
            config.fit,
            train,
            validation,
            config.seed,
            Path(folder) / "recipe.npz",
            on_epoch=lambda *_: ends.append((time.perf_counter(), time.process_time())),
            label=f"{len(series)} series",
            epochs=epochs,
        )
    seconds, core_seconds = np.diff(np.array(ends), axis=0).T.tolist()
    data = int(frame.memory_usage().sum()) + series.values.nbytes + series.timestamps.nbytes
    return Cost(len(train), tuple(seconds), tuple(core_seconds), preparation, data, peak[0] - before)


@networks.reuse_networks()
def measure(count: int, epochs: int, size: Size) -> Cost:
    """Return the cost of `count` series, after a fit of the smallest size, which compiles the network."""
    train(recipe(size.series[0], size.rows), epochs=2)
    return train(recipe(count, size.rows), epochs)


def exponent(windows: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the power of the number of windows that the time grows with, by least squares of the logarithms."""
    return float(np.polyfit(np.log(windows), np.log(seconds), 1)[0])


def as_rows(counts: Sequence[int], costs: Sequence[Cost]) -> Iterator[Row]:
    """Yield the costs of the numbers of series in `counts`, and how they grow."""
    for count, cost in zip(counts, costs, strict=True):
        yield Row(f"{count:,} series: windows", cost.windows, None, "")
        yield Row.of_runs("  an epoch", cost.seconds, None, "s")
        yield Row.of_runs("  CPU time of an epoch", cost.core_seconds, None, "core s")
        yield Row("  CPU time from the frame to windows", cost.preparation, None, "core s")
        yield Row("  data", cost.data / 1e6, None, "MB")
        yield Row("  peak memory, with the data", cost.memory / 1e6, None, "MB")
    windows = [cost.windows for cost in costs]
    seconds = [statistics.median(cost.seconds) for cost in costs]
    # other work on the machine changes the time of an epoch, but hardly its CPU time
    core_seconds = [statistics.median(cost.core_seconds) for cost in costs]
    yield Row("exponent of an epoch's time over windows", exponent(windows, seconds), None, "")
    yield Row("exponent of an epoch's CPU time over windows", exponent(windows, core_seconds), MOST_EXPONENT, "")
    preparations = [cost.preparation for cost in costs]
    yield Row("exponent of the CPU time to windows", exponent(windows, preparations), MOST_EXPONENT, "")
    largest = costs[-1]
    yield Row("peak memory over the data, most series", largest.memory / largest.data, MOST_MEMORY, "ratio")


def main() -> int:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.series",
        description=__doc__,
        epilog="example:\n  python -m benchmarks.series --quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="use a few series, to check that the benchmark runs")
    size = QUICK if parser.parse_args().quick else Size()
    costs = []
    for count, epochs in zip(size.series, size.epochs, strict=True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            costs.append(pool.submit(measure, count, epochs, size).result())
    return report(list(as_rows(size.series, costs)))


if __name__ == "__main__":
    sys.exit(main())
