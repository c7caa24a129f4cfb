"""Time a backtest of 1,000 cutoffs × 100 series, and the same cross-validation in NeuralForecast.

Run `make bench-peers`, then `python -m benchmarks.backtest`. Both times exclude training: this project trains before
the measurement, and NeuralForecast's training step is subtracted. The times include every forecast; for this project
also the intervals and metrics. `--task auto-ets` times AutoETS, refitted at each of 100 cutoffs to each of 100 series,
on one core and on all cores.
"""

import argparse
import json
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
from forecaster.domain.cores import usable_cores
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
    # few windows, since the training is not measured
    "step_size": 16,
    "transforms": [{"kind": "standardize"}],
    "model": {"cell": "lstm", "widths": [UNITS]},
    "fit": {"epochs": 1},
    "split": {"train": 0.4, "validation": 0.2, "calibration": 0.2, "test": 0.2},
    "intervals": "ewma",
    "refit": False,
}  # fmt: skip


def clock() -> Floats:
    """Return wall time and CPU time of this process in seconds, `(2,)`."""
    return np.array([time.perf_counter(), time.process_time()])


def our_seconds(folder: Path) -> Floats:
    """Return wall and CPU time of a backtest without training and calibration, the median of the rounds, `(2,)`."""
    config = build_config(RECIPE, TrainConfig, "benchmark")
    series = prepare(config, config.data.load())
    trial = BacktestConfig(n_windows=N_WINDOWS, baselines=("naive",))
    origins = roll(series, INPUT_SIZE, HORIZON, N_WINDOWS, 1)
    fitted = fit_for_serving(config, known_at(series, origins.cutoffs[0], INPUT_SIZE + HORIZON), folder)
    # exclude the training from the measurement
    room.fit_for_serving = lambda *arguments: fitted
    trials = []
    for _ in range(ROUNDS):
        start = clock()
        metrics = score(backtest(config, trial, series, folder), trial, series)
        trials.append(clock() - start)
        if not np.isfinite(metrics["mae"]):
            raise ForecasterError("the MAE of the backtest is not finite; check the recipe of this benchmark")
    return np.asarray(np.median(trials, axis=0))


def peer_seconds() -> tuple[Floats, Floats]:
    """Return the median times of NeuralForecast's cross-validation without its training, and of the training.

    Each is wall and CPU time in seconds, `(2,)`.
    """
    numbers = [str(number) for number in (N_SERIES, N_WINDOWS, INPUT_SIZE, HORIZON, UNITS)]
    script = ROOT / "benchmarks" / "peers" / "neuralforecast_backtest.py"
    done = subprocess.run([str(PEER), str(script), *numbers], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ForecasterError(f"{script.name} failed: {done.stderr[-500:]}")
    whole, training = np.array(json.loads(done.stdout.splitlines()[-1])).swapaxes(0, 1)
    return np.median(whole - training, axis=0), np.median(training, axis=0)


def compare_auto_ets() -> int:
    """Time AutoETS with one process and with one process per core, and print the table."""
    walks = np.cumsum(np.random.default_rng(1).normal(size=(N_SERIES, ETS_WINDOWS + ETS_ROWS)), axis=1)
    histories = [walk[start : start + ETS_ROWS] for walk in walks for start in range(ETS_WINDOWS)]
    cores = usable_cores()
    seconds = {}
    for n_processes in (1, cores):
        start = time.perf_counter()
        forecast_histories("auto_ets", histories, HORIZON, 1, n_processes)
        seconds[n_processes] = time.perf_counter() - start
    rows = [Row(f"AutoETS, {number} processes", taken, None, "s") for number, taken in seconds.items()]
    # three quarters of the ideal saving
    bar = 1 - 0.75 * (1 - 1 / cores)
    return report([*rows, Row("all cores over one", seconds[cores] / seconds[1], bar, "ratio")])


def compare_networks() -> int:
    """Time this project and NeuralForecast, and print the table."""
    if not PEER.exists():
        sys.stderr.write("error: NeuralForecast is not installed; run make bench-peers\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        ours = our_seconds(Path(folder))
    theirs, training = peer_seconds()
    rows = []
    # other load on the machine affects wall time more than CPU time
    for number, unit in enumerate(("s", "core s")):
        rows += [
            Row("backtest, intervals and metrics", ours[number], None, unit),
            Row("NeuralForecast's cross_validation without its training", theirs[number], None, unit),
            Row("its training", training[number], None, unit),
            Row("ours over theirs", ours[number] / theirs[number], 1.0, "ratio"),
        ]
    return report([*rows, Row("memory of our process", psutil.Process().memory_info().rss / 2**20, None, "MiB")])


TASKS = {"network": compare_networks, "auto-ets": compare_auto_ets}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "python -m benchmarks.backtest",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.backtest\n  python -m benchmarks.backtest --task auto-ets",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=TASKS, default="network", help="what to time (default: %(default)s)")
    sys.exit(TASKS[parser.parse_args().task]())
