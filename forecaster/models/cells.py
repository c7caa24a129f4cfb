"""Recurrent cells: the Keras layer that trains, and the native ONNX operator that serves. A new cell is one entry here.

Layouts: Keras holds `kernel (inputs, gates·units)`, `recurrent_kernel (units, gates·units)`; ONNX holds them transposed
behind a direction axis, `W (1, gates·units, inputs)`, `R (1, gates·units, units)`, `B (1, 2·gates·units)` with the
input biases before the recurrent ones.
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
        layer: the name of its class in `keras.layers`.
        gate_order: for each of ONNX' gates, the position of the same gate in Keras' kernels.
        operator: the name of its ONNX operator.
        options: the operator's attributes.
    """

    layer: str
    gate_order: tuple[int, ...]
    operator: str
    options: dict[str, Any]

    def build(self, units: int, seed: int) -> Any:
        """Return the Keras layer, answering at each step: `(batch, time, inputs) → (batch, time, units)`."""
        import keras

        initializers = {
            "kernel_initializer": keras.initializers.GlorotUniform(seed),
            "recurrent_initializer": keras.initializers.Orthogonal(seed=seed + 1),
        }
        return getattr(keras.layers, self.layer)(units, return_sequences=True, **initializers)

    def trace(self, x: Any, weights: Weights) -> Any:
        """Return the ONNX variable of the layer's outputs.

        Args:
            x: variable of shape `(time, batch, inputs)`, float32.
            weights: the Keras layer's kernel, recurrent kernel and bias.

        Returns:
            variable of shape `(time, batch, units)`.
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
        # (time, directions, batch, units), one direction
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
    # Cho et al. (2014), arXiv 1406.1078, with the reset gate after the recurrent product, which is Keras' default
    "gru": Cell("GRU", (0, 1, 2), "gru", {"linear_before_reset": 1}),
}
