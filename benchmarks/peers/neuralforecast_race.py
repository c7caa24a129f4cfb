"""Train a network of NeuralForecast on many short series; print its validation error over time.

Run by `benchmarks.race` in the peers' environment:

    .venv-peers/bin/python benchmarks/peers/neuralforecast_race.py lstm series.npz 10 0.003 40
"""

import copy
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
from neuralforecast.models import GRU, LSTM, NHITS, RNN
from pytorch_lightning.callbacks import Callback

BATCH, LAYERS, UNITS = 32, 2, 20
RECURRENT = {"simple_rnn": RNN, "lstm": LSTM, "gru": GRU}
# weights after each epoch, and when; global, because the library copies callbacks
SNAPSHOTS: list[tuple[float, dict[str, Any]]] = []


class Snapshots(Callback):  # type: ignore[misc]
    """Keeps the weights after each epoch; copying them is not counted as training time."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.copying = 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        if trainer.global_step % self.steps == 0:
            begin = time.perf_counter()
            SNAPSHOTS.append((begin - self.copying, copy.deepcopy(module.state_dict())))
            self.copying += time.perf_counter() - begin


def build(name: str, horizon: int, input_size: int, learning_rate: float, steps: int, epochs: int) -> Any:
    options: dict[str, Any] = {
        "h": horizon,
        "input_size": input_size,
        "loss": MSE(),
        "max_steps": steps * epochs,
        "learning_rate": learning_rate,
        "batch_size": BATCH,
        "windows_batch_size": BATCH,
        "scaler_type": "identity",
        # by default, most of its windows go beyond the end of a series, and their targets there do not count
        "training_data_availability_threshold": [0.0, 1.0],
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "logger": False,
        "callbacks": [Snapshots(steps)],
    }
    if name == "nhits":
        return NHITS(**options)
    sizes = {"encoder_n_layers": LAYERS, "encoder_hidden_size": UNITS, "decoder_layers": 1}
    return RECURRENT[name](**options, **sizes, decoder_hidden_size=UNITS)


def long_frame(series: np.ndarray) -> pd.DataFrame:
    names, times = np.repeat(np.arange(len(series)), series.shape[1]), np.tile(np.arange(series.shape[1]), len(series))
    return pd.DataFrame({"unique_id": names, "ds": times, "y": series.ravel()})


def main() -> None:
    name, file = sys.argv[1:3]
    horizon, learning_rate, epochs = int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with np.load(file) as arrays:
        train, validation = arrays["train"], arrays["validation"]
    model = build(name, horizon, train.shape[1] - horizon, learning_rate, len(train) // BATCH, epochs)
    library = NeuralForecast([model], freq=1)
    begin = time.perf_counter()
    library.fit(long_frame(train))
    known, curve = long_frame(validation[:, :-horizon]), []
    for end, weights in SNAPSHOTS:
        library.models[0].load_state_dict(weights)
        forecast = library.predict(known).iloc[:, -1].to_numpy().reshape(len(validation), horizon)
        curve.append([end - begin, float(((forecast - validation[:, -horizon:]) ** 2).mean())])
    sys.stdout.write(json.dumps(curve) + "\n")


if __name__ == "__main__":
    main()
