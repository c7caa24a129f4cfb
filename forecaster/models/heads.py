"""Heads: the network's output for each step of the horizon. Add a head to `HEADS`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Head:
    """A dense layer from hidden units to `outputs_per_step` numbers for each step of the horizon."""

    outputs_per_step: int

    def build(self, horizon: int, seed: int) -> Any:
        """Return the Keras layer: `(…, units) → (…, horizon · outputs_per_step)`."""
        import keras

        return keras.layers.Dense(
            horizon * self.outputs_per_step, kernel_initializer=keras.initializers.GlorotUniform(seed), name="head"
        )

    def trace(self, hidden: Any, weights: list[NDArray[np.float32]]) -> Any:
        """Return the ONNX variable of the layer's outputs, for a variable `hidden (…, units)`."""
        import spox.opset.ai.onnx.v21 as onnx

        kernel, bias = weights
        return onnx.add(onnx.matmul(hidden, onnx.const(kernel)), onnx.const(bias))


HEADS = {"point": Head(outputs_per_step=1)}
