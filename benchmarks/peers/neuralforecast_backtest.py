"""Cross-validate NeuralForecast's LSTM without refit; print the time of each round and of its training step.

Each time is a pair: wall time and CPU time in seconds.

Run by `benchmarks.backtest` in the peers' environment:

    .venv-peers/bin/python benchmarks/peers/neuralforecast_backtest.py 100 1000 50 10 64
"""

import json
import logging
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MSE
from neuralforecast.models import LSTM
from pytorch_lightning.callbacks import Callback

ROUNDS = 3
# global, because the library copies callbacks
TRAINED: list[tuple[float, float]] = []


class Training(Callback):  # type: ignore[misc]
    """Records when each training starts and ends; forecasts have stages too."""

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        if stage == "fit":
            TRAINED.append(clock())

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        if stage == "fit":
            TRAINED.append(clock())


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    n_series, n_windows, input_size, horizon, units = map(int, sys.argv[1:])
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    length = n_windows + horizon + 3 * input_size
    walks = np.cumsum(np.random.default_rng(0).normal(size=(n_series, length)), axis=1)
    names, times = np.repeat(np.arange(n_series), length), np.tile(np.arange(length), n_series)
    frame = pd.DataFrame({"unique_id": names, "ds": times, "y": walks.ravel()})
    rounds = []
    for _ in range(ROUNDS):
        model = LSTM(
            h=horizon,
            input_size=input_size,
            encoder_n_layers=1,
            encoder_hidden_size=units,
            decoder_layers=1,
            decoder_hidden_size=units,
            loss=MSE(),
            max_steps=1,
            scaler_type="standard",
            inference_windows_batch_size=4096,
            enable_progress_bar=False,
            enable_checkpointing=False,
            logger=False,
            callbacks=[Training()],
        )
        TRAINED.clear()
        start = clock()
        NeuralForecast([model], freq=1).cross_validation(frame, n_windows=n_windows, step_size=1, refit=False)
        end = clock()
        started, ended = TRAINED
        rounds.append((np.subtract(end, start).tolist(), np.subtract(ended, started).tolist()))
    sys.stdout.write(json.dumps(rounds) + "\n")


if __name__ == "__main__":
    main()
