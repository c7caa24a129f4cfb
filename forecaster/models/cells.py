"""Recurrent cells: the Keras layer for training and the native ONNX operator for serving. Add a cell to `CELLS`.

Layouts: Keras has `kernel (inputs, gates·units)` and `recurrent_kernel (units, gates·units)`. ONNX has them transposed,
after a direction axis: `W (1, gates·units, inputs)`, `R (1, gates·units, units)`, and `B (1, 2·gates·units)` with the
input biases before the recurrent biases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell.

    Args:
        layer: the name of the class in `keras.layers`.
        gate_order: for each gate in ONNX's order, its position in Keras's kernels.
        operator: the name of the ONNX operator.
        options: the operator's attributes.
    """

    layer: str
    gate_order: tuple[int, ...]
    operator: str
    options: dict[str, Any]

    def build(self, units: int, seed: int) -> Any:
        """Return the Keras layer, with an output at each step: `(batch, time, inputs) → (batch, time, units)`."""
        import keras

        initializers = {
            "kernel_initializer": keras.initializers.GlorotUniform(seed),
            "recurrent_initializer": keras.initializers.Orthogonal(seed=seed + 1),
        }
        return getattr(keras.layers, self.layer)(units, return_sequences=True, **initializers)

    def trace(self, x: Any, weights: Weights) -> Any:
        """Return the ONNX variable of the layer's outputs.

        Args:
            x: a variable of shape `(time, batch, inputs)`, float32.
            weights: the Keras layer's kernel, recurrent kernel and bias.

        Returns:
            A variable of shape `(time, batch, units)`.
        """
        import spox.opset.ai.onnx.v21 as onnx

        kernel, recurrent, bias = weights
        units = recurrent.shape[0]
        biases = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        operator: Callable[..., Any] = getattr(onnx, self.operator)
        outputs = operator(
            x,
            onnx.const(self._reorder(kernel).T[None]),
            onnx.const(self._reorder(recurrent).T[None]),
            onnx.const(self._reorder(biases).reshape(1, -1)),
            hidden_size=units,
            **self.options,
        )
        # the shape is (time, directions, batch, units), with one direction
        return onnx.squeeze(outputs[0], onnx.const(np.array([1], dtype=np.int64)))

    def _reorder(self, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
        gates = np.split(kernel, len(self.gate_order), axis=-1)
        return np.concatenate([gates[position] for position in self.gate_order], axis=-1)


CELLS = {
    # Elman (1990), doi:10.1207/s15516709cog1402_1: h = tanh(W x + U h + b)
    "simple_rnn": Cell("SimpleRNN", (0,), "rnn", {}),
    # Hochreiter & Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, with the forget gate of Gers et al. (2000).
    # Keras: input, forget, candidate, output; ONNX: input, output, forget, candidate
    "lstm": Cell("LSTM", (0, 3, 1, 2), "lstm", {}),
    # Cho et al. (2014), arXiv 1406.1078, with the reset gate after the recurrent product, Keras's default
    "gru": Cell("GRU", (0, 1, 2), "gru", {"linear_before_reset": 1}),
}
