"""Recurrent cells: the Keras layer for training and the native ONNX operator for serving. Add a cell to `CELLS`.

Layouts: Keras has `kernel (inputs, gates·units)` and `recurrent_kernel (units, gates·units)`. ONNX has them transposed,
after a direction axis: `W (1, gates·units, inputs)`, `R (1, gates·units, units)`, and `B (1, 2·gates·units)` with the
input biases before the recurrent biases.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.models.tape import States

Weights = list[NDArray[np.float32]]
# a longer layer is traced into its operator: each unrolled step adds two operators to the graph
_MAX_UNROLLED_STEPS = 128


@dataclass(frozen=True)
class Cell:
    """A recurrent cell.

    Args:
        layer: the name of the class in `keras.layers`.
        gate_order: for each gate in ONNX's order, its position in Keras's kernels.
        operator: the name of the ONNX operator.
        states: the operator's inputs for the initial states, in Keras's order.
        options: the operator's attributes.
        layer_options: the Keras layer's arguments.
        unroll: traces up to 128 steps one by one instead, with the arguments of `_unroll_tanh`; for a cell whose
            operator is slow on batches.
    """

    layer: str
    gate_order: tuple[int, ...]
    operator: str
    states: tuple[str, ...] = ("initial_h",)
    options: Mapping[str, Any] = field(default_factory=dict)
    layer_options: Mapping[str, Any] = field(default_factory=dict)
    unroll: Callable[..., tuple[Any, States]] | None = None

    def build(self, units: int, seed: int, **options: Any) -> Any:
        """Return the Keras layer, which returns its output at each step and its last states.

        Args:
            units: number of units.
            seed: determines the initial weights, and the masks of recurrent dropout.
            **options: further arguments of the Keras layer.
        """
        import keras

        initializers = {
            "kernel_initializer": keras.initializers.GlorotUniform(seed),
            "recurrent_initializer": keras.initializers.Orthogonal(seed=seed + 1),
        }
        layer = getattr(keras.layers, self.layer)
        fixed = {"return_sequences": True, "return_state": True, "seed": seed + 3}
        return layer(units, **fixed, **initializers, **self.layer_options, **options)

    def trace(
        self, x: Any, weights: Weights, initial: States | None = None, is_reversed: bool = False
    ) -> tuple[Any, States]:
        """Return the ONNX variables of the layer's outputs and of its last states.

        Args:
            x: a variable of shape `(time, batch, inputs)`, float32.
            weights: the Keras layer's kernel, recurrent kernel and bias.
            initial: variables of the states before the first step, `(batch, units)` each; zeros when None.
            is_reversed: whether to run from the last step to the first.

        Returns:
            A variable of shape `(time, batch, units)`, and the states, `(batch, units)` each.
        """
        import spox.opset.ai.onnx.v21 as onnx

        kernel, recurrent, bias = weights
        steps = x.unwrap_tensor().shape[0]
        if self.unroll and isinstance(steps, int) and steps <= _MAX_UNROLLED_STEPS:
            return self.unroll(x, steps, kernel, recurrent, bias, initial, is_reversed)
        biases = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        direction = onnx.const(np.array([0], dtype=np.int64))
        before = {} if initial is None else dict(zip(self.states, initial, strict=True))
        operator: Callable[..., Any] = getattr(onnx, self.operator)
        outputs, *states = operator(
            x,
            onnx.const(self._reorder(kernel).T[None]),
            onnx.const(self._reorder(recurrent).T[None]),
            onnx.const(self._reorder(biases).reshape(1, -1)),
            hidden_size=recurrent.shape[0],
            direction="reverse" if is_reversed else "forward",
            **{name: onnx.unsqueeze(state, direction) for name, state in before.items()},
            **self.options,
        )
        # the shape is (time, directions, batch, units), with one direction
        hidden = onnx.squeeze(outputs, onnx.const(np.array([1], dtype=np.int64)))
        return hidden, tuple(onnx.squeeze(state, direction) for state in states)

    def _reorder(self, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
        gates = np.split(kernel, len(self.gate_order), axis=-1)
        return np.concatenate([gates[position] for position in self.gate_order], axis=-1)


def _unroll_tanh(
    x: Any,
    steps: int,
    kernel: NDArray[np.float32],
    recurrent: NDArray[np.float32],
    bias: NDArray[np.float32],
    initial: States | None,
    is_reversed: bool,
) -> tuple[Any, States]:
    """Return what `Cell.trace` returns for h = tanh(W x + U h + b), by one operator for all inputs and two for a step.

    ONNX Runtime's RNN computes each tanh by itself: on 64 windows it takes four times as long (`benchmarks.cells`), and
    a window that is alone gets other last digits than in a batch.
    """
    import spox.opset.ai.onnx.v21 as onnx

    inputs, units = kernel.shape
    rows = onnx.reshape(x, onnx.const(np.array([-1, inputs])))
    projected = onnx.gemm(rows, onnx.const(kernel), onnx.const(bias))
    parts = [*onnx.split(projected, num_outputs=steps, axis=0)] if steps > 1 else [projected]
    weights, hidden, outputs = onnx.const(recurrent), None if initial is None else initial[0], []
    for part in reversed(parts) if is_reversed else parts:
        hidden = onnx.tanh(part if hidden is None else onnx.gemm(hidden, weights, part))
        outputs.append(hidden)
    joined = onnx.concat(outputs[::-1] if is_reversed else outputs, axis=0)
    return onnx.reshape(joined, onnx.const(np.array([steps, -1, units]))), (hidden,)


CELLS = {
    # Elman (1990), doi:10.1207/s15516709cog1402_1: h = tanh(W x + U h + b)
    "simple_rnn": Cell("SimpleRNN", (0,), "rnn", unroll=_unroll_tanh),
    # Hochreiter & Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, with the forget gate of Gers et al. (2000).
    # Keras: input, forget, candidate, output; ONNX: input, output, forget, candidate
    "lstm": Cell("LSTM", (0, 3, 1, 2), "lstm", ("initial_h", "initial_c")),
    # Cho et al. (2014), arXiv 1406.1078v1, with the reset gate after the recurrent product, Keras's default
    "gru": Cell("GRU", (0, 1, 2), "gru", options={"linear_before_reset": 1}),
    # Cho et al. (2014), arXiv 1406.1078v3, equation 8, with the reset gate before the recurrent product
    "gru_reset_before": Cell(
        "GRU", (0, 1, 2), "gru", options={"linear_before_reset": 0}, layer_options={"reset_after": False}
    ),
}
