"""Backtest 1,000 origins × 100 series beside NeuralForecast: `make bench-peers`, then `python -m benchmarks.backtest`.

Training is timed on neither side: ours, with the calibration's residuals, is done before, and theirs, a single step
within `cross_validation`, is subtracted. What is timed on ours is every forecast, the static and adaptive intervals,
the figures, and the leakage certificate; theirs has forecasts alone. `--task auto-ets` times AutoETS, fitted anew at
each of 100 origins to each of 100 series, on one core and on all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Row, report
from forecaster.domain.config import build_config
from forecaster.domain.errors import ForecasterError
from forecaster.evaluation.statistical import forecast_histories
from forecaster.lifecycle import backtest as room
from forecaster.lifecycle.backtest import BacktestConfig, backtest, fit_until_now
from forecaster.lifecycle.origins import known_at, roll
from forecaster.lifecycle.report import score
from forecaster.training.leakage import certify
from forecaster.training.recipe import TrainConfig, prepare

N_SERIES, N_WINDOWS, INPUT_SIZE, HORIZON, UNITS, ROUNDS = 100, 1000, 50, 10, 64, 3
ETS_WINDOWS, ETS_ROWS = 100, 200
ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-peers" / "bin" / "python"
RECIPE = {
    "name": "walk",
    "data": {
        "source": "random_walk", "n_series": N_SERIES, "length": N_WINDOWS + HORIZON + 6 * INPUT_SIZE + 6 * HORIZON,
    },
    "input_size": INPUT_SIZE,
    "horizon": HORIZON,
    # few windows for the single epoch that comes before
    "step_size": 16,
    "transforms": [{"kind": "standardize"}],
    "model": {"cell": "lstm", "widths": [UNITS]},
    "fit": {"epochs": 1},
    "split": {"train": 0.4, "validation": 0.2, "calibration": 0.2, "test": 0.2},
    "intervals": "ewma",
    "refit": False,
}  # fmt: skip


def our_seconds(folder: Path) -> tuple[list[float], list[float]]:
    """Return what a backtest and what the certificate took in each round, without training and calibration."""
    config = build_config(RECIPE, TrainConfig, "benchmark")
    frame = config.data.load()
    series = prepare(config, frame)
    trial = BacktestConfig(n_windows=N_WINDOWS, baselines=("naive",))
    origins = roll(series, INPUT_SIZE, HORIZON, N_WINDOWS, 1)
    fitted = fit_until_now(config, known_at(series, origins.cutoffs[0], INPUT_SIZE + HORIZON), folder)
    # the training is not what is measured
    room.fit_until_now = lambda *arguments: fitted
    trials, certificates = [], []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        figures = score(backtest(config, trial, series, folder), trial, series)
        middle = time.perf_counter()
        certify(config, frame, fitted[0])
        trials.append(middle - begin)
        certificates.append(time.perf_counter() - middle)
        if not np.isfinite(figures["mae"]):
            raise ForecasterError("the backtest gave no figure")
    return trials, certificates


def peer_seconds() -> list[tuple[float, float]]:
    """Return what NeuralForecast's cross-validation took in each round, and its training within that."""
    numbers = [str(number) for number in (N_SERIES, N_WINDOWS, INPUT_SIZE, HORIZON, UNITS)]
    script = ROOT / "benchmarks" / "peers" / "neuralforecast_backtest.py"
    done = subprocess.run([str(PEER), str(script), *numbers], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ForecasterError(f"{script.name} failed: {done.stderr[-500:]}")
    rounds: list[tuple[float, float]] = json.loads(done.stdout.splitlines()[-1])
    return rounds


def compare_auto_ets() -> int:
    """Measure AutoETS on one process and on one for each core, and print the table."""
    walks = np.cumsum(np.random.default_rng(1).normal(size=(N_SERIES, ETS_WINDOWS + ETS_ROWS)), axis=1)
    histories = [walk[begin : begin + ETS_ROWS] for walk in walks for begin in range(ETS_WINDOWS)]
    cores = len(os.sched_getaffinity(0))
    seconds = {}
    for n_processes in (1, cores):
        begin = time.perf_counter()
        forecast_histories("auto_ets", histories, HORIZON, 1, n_processes)
        seconds[n_processes] = time.perf_counter() - begin
    rows = [Row(f"AutoETS, {number} processes", taken, None, "s") for number, taken in seconds.items()]
    # of what the cores could spare, three quarters
    bar = 1 - 0.75 * (1 - 1 / cores)
    return report([*rows, Row("all cores over one", seconds[cores] / seconds[1], bar, "ratio")])


def compare_networks() -> int:
    """Measure both sides one after the other and print the table."""
    if not PEER.exists():
        sys.stderr.write("error: the peers are not installed; run make bench-peers first\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        trials, certificates = our_seconds(Path(folder))
    ours, certificate = statistics.median(trials), statistics.median(certificates)
    rounds = peer_seconds()
    theirs = statistics.median(whole - training for whole, training in rounds)
    return report(
        [
            Row("backtest, intervals and figures", ours, None, "s"),
            Row("leakage certificate", certificate, None, "s"),
            Row("NeuralForecast's cross_validation without training", theirs, None, "s"),
            Row("its training", statistics.median(training for _, training in rounds), None, "s"),
            Row("ours over theirs", ours / theirs, None, "ratio"),
            Row("ours with the certificate over theirs", (ours + certificate) / theirs, 1.0, "ratio"),
            Row("memory of our process at the end", psutil.Process().memory_info().rss / 2**20, None, "MiB"),
        ]
    )


TASKS = {"network": compare_networks, "auto-ets": compare_auto_ets}

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.backtest", description="Time backtests.")
    parser.add_argument("--task", choices=TASKS, default="network", help="what is timed (default: %(default)s)")
    sys.exit(TASKS[parser.parse_args().task]())
