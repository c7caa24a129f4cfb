"""Backtest 1,000 origins × 100 series beside NeuralForecast: `make bench-peers`, then `python -m benchmarks.backtest`.

Training is timed on neither side: ours, with its calibration and without an audit, is done before; theirs, one step
within `cross_validation`, is subtracted. What is timed is every forecast; on our side the static and adaptive
intervals and the figures too. `--task auto-ets` times AutoETS, fitted anew at each of 100 origins to each of 100
series, on one core and on all.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Row, report
from forecaster.backtesting import backtest as room
from forecaster.backtesting.backtest import BacktestConfig, backtest, fit_for_serving
from forecaster.backtesting.origins import known_at, roll
from forecaster.backtesting.report import score
from forecaster.domain.config import build_config
from forecaster.domain.errors import ForecasterError
from forecaster.domain.series import Floats
from forecaster.evaluation.statistical import forecast_histories
from forecaster.training.config import TrainConfig, prepare

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


def clock() -> Floats:
    """Return the time and this process's time on the cores, in seconds, `(2,)`."""
    return np.array([time.perf_counter(), time.process_time()])


def our_seconds(folder: Path) -> Floats:
    """Return what a backtest took, without training and calibration: the median of the rounds, `(2,)`."""
    config = build_config(RECIPE, TrainConfig, "benchmark")
    series = prepare(config, config.data.load())
    trial = BacktestConfig(n_windows=N_WINDOWS, baselines=("naive",))
    origins = roll(series, INPUT_SIZE, HORIZON, N_WINDOWS, 1)
    fitted = fit_for_serving(config, known_at(series, origins.cutoffs[0], INPUT_SIZE + HORIZON), folder)
    # the training is not what is measured
    room.fit_for_serving = lambda *arguments: fitted
    trials = []
    for _ in range(ROUNDS):
        begin = clock()
        figures = score(backtest(config, trial, series, folder), trial, series)
        trials.append(clock() - begin)
        if not np.isfinite(figures["mae"]):
            raise ForecasterError("the backtest gave no figure")
    return np.asarray(np.median(trials, axis=0))


def peer_seconds() -> tuple[Floats, Floats]:
    """Return what NeuralForecast's cross-validation took beside its training, and that; medians, `(2,)` each."""
    numbers = [str(number) for number in (N_SERIES, N_WINDOWS, INPUT_SIZE, HORIZON, UNITS)]
    script = ROOT / "benchmarks" / "peers" / "neuralforecast_backtest.py"
    done = subprocess.run([str(PEER), str(script), *numbers], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ForecasterError(f"{script.name} failed: {done.stderr[-500:]}")
    whole, training = np.array(json.loads(done.stdout.splitlines()[-1])).swapaxes(0, 1)
    return np.median(whole - training, axis=0), np.median(training, axis=0)


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
        ours = our_seconds(Path(folder))
    theirs, training = peer_seconds()
    rows = []
    # others' work on the machine shows in the time, and less in the time on the cores
    for number, unit in enumerate(("s", "core s")):
        rows += [
            Row("backtest, intervals and figures", ours[number], None, unit),
            Row("NeuralForecast's cross_validation without its training", theirs[number], None, unit),
            Row("its training", training[number], None, unit),
            Row("ours over theirs", ours[number] / theirs[number], 1.0, "ratio"),
        ]
    return report([*rows, Row("memory of our process", psutil.Process().memory_info().rss / 2**20, None, "MiB")])


TASKS = {"network": compare_networks, "auto-ets": compare_auto_ets}

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.backtest", description="Time backtests.")
    parser.add_argument("--task", choices=TASKS, default="network", help="what is timed (default: %(default)s)")
    sys.exit(TASKS[parser.parse_args().task]())
