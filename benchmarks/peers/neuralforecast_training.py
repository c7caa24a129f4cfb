"""Train NeuralForecast's recurrent network on a random walk; print the seconds of each measured stretch.

Run by `benchmarks.training` in the peers' environment:

    .venv-peers/bin/python benchmarks/peers/neuralforecast_training.py lstm 64 50 10 64 200
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
from neuralforecast.models import GRU, LSTM, RNN
from pytorch_lightning.callbacks import Callback

MODELS = {"simple_rnn": RNN, "lstm": LSTM, "gru": GRU}
STRETCHES = 4
# global, because the library copies callbacks
ENDS: list[float] = []


class Clock(Callback):  # type: ignore[misc]
    """Records when each stretch of steps ends; the first stretch warms up."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        if trainer.global_step % self.steps == 0:
            ENDS.append(time.perf_counter())


def main() -> None:
    cell, (units, input_size, horizon, batch_size, steps) = sys.argv[1], map(int, sys.argv[2:])
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    length = 4000
    walk = np.cumsum(np.random.default_rng(0).normal(size=length))
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(length), "y": walk})
    model = MODELS[cell](
        h=horizon,
        input_size=input_size,
        encoder_n_layers=1,
        encoder_hidden_size=units,
        decoder_layers=1,
        decoder_hidden_size=units,
        loss=MSE(),
        max_steps=steps * (STRETCHES + 1),
        learning_rate=1e-3,
        batch_size=1,
        windows_batch_size=batch_size,
        scaler_type="standard",
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=[Clock(steps)],
    )
    NeuralForecast([model], freq=1).fit(frame)
    sys.stdout.write(json.dumps(np.diff(ENDS).tolist()) + "\n")


if __name__ == "__main__":
    main()
