"""Fit recipes on processors that stand in for GPUs: `python -m tests.training.fit_on_devices COUNT`.

Each recipe's weights go to a file in the working directory.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from forecaster.training import devices, networks, stages
from forecaster.training.config import prepare, split
from forecaster.training.fit_config import FitConfig
from tests.conftest import small_config

# gradients are clipped in most steps
FIT = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01, "clip_norm": 0.1}
RECIPES: dict[str, dict[str, Any]] = {
    # the first steps have weight 0
    "weighted": {
        "model": {"cell": "lstm", "widths": [6], "decoder": "each_step"},
        "transforms": [{"kind": "mean_std"}],
        "fit": FIT | {"ema_decay": 0.9},
    },
    "ridge": {
        "model": {"cell": "gru", "widths": [6], "skip": "ridge", "members": 2},
        "fit": FIT | {"schedule": "cosine"},
    },
    "stateful": {
        "model": {"cell": "gru", "widths": [6], "decoder": "each_step"},
        "fit": FIT | {"stateful": {"chunk": 24, "backprop_steps": 12}},
    },
}


def processors(count: int) -> list[str]:
    """Return the names of `count` virtual devices of the processor."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        (processor,) = tensorflow.config.list_physical_devices("CPU")
        virtual = [tensorflow.config.LogicalDeviceConfiguration()] * count
        tensorflow.config.set_logical_device_configuration(processor, virtual)
        return [device.name for device in tensorflow.config.list_logical_devices("CPU")]
    return list(keras.distribution.list_devices("cpu"))


def fit(name: str, recipe: dict[str, Any]) -> list[float]:
    """Fit a recipe, which is interrupted after its second epoch and goes on; return its losses by epoch."""

    def interrupt(phase: str, epoch: int, *losses: float | None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    data = {"source": "sine", "length": 500, "seed": 3, "sines": [{"period": 12}]}
    config = small_config(Path("none"), **({"data": data, "folds": 0, "fit": FIT} | recipe))
    parts = split(config, prepare(config, config.data.load()))
    checkpoints = Path(name)
    checkpoints.mkdir()
    try:
        stages.fit_recipe(config, parts, checkpoints, interrupt)
    except KeyboardInterrupt:
        trained, history, _ = stages.fit_recipe(config, parts, checkpoints)
    np.savez(f"{name}.npz", *trained.model.get_weights())
    return history.loss


def losses_with_dropout() -> list[float]:
    """Return the loss of the first half of a batch of equal rows, of the second half, and twice of all rows.

    The generators are set back after each loss but the third.
    """
    model = ModelConfig.model_validate({"cell": "gru", "encoder": {"widths": [6], "dropout": 0.5}})
    inputs, targets = np.ones((4, 12, 1), np.float32), np.ones((4, 3), np.float32)
    with devices.all_devices(4):
        network = build_model(model, NetworkShape(12, 3), 0)
        # too small a rate to change the weights
        config, batches = FitConfig(learning_rate=1e-30), networks.Batches(4, 1)
        compiled = networks.compile_network(network, model, config, batches)
        before = [keras.ops.convert_to_numpy(variable) for variable in network.variables]
        losses = []
        for rows in ([1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], None):
            for variable, value in zip(network.variables, before, strict=True):
                if rows:
                    variable.assign(value)
            weights = np.array(rows or [1] * 4, np.float32)
            losses.append(networks.fit_batches(compiled, 4, [inputs], targets, weights))
    return losses


def main() -> None:
    """Fit all recipes on the first command-line argument's number of devices."""
    logging.basicConfig(level=logging.INFO)
    names = processors(int(sys.argv[1]))
    devices.accelerators = lambda: names
    # the fit that goes on reuses the network of the interrupted one
    with networks.reuse_networks():
        answer = {name: fit(name, recipe) for name, recipe in RECIPES.items()}
    print(json.dumps(answer | {"dropout": losses_with_dropout()}))


if __name__ == "__main__":
    main()
