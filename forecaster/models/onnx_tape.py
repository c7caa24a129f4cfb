"""The tape that traces a network into ONNX operators, with the weights of its trained Keras layers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.models.cells import CELLS
from forecaster.models.tape import Array, States

Weights = list[NDArray[np.float32]]


class OnnxTape:
    """Traces operators on ndonnx arrays of float32.

    Args:
        weights: returns the weights of the layer with a name, as Keras's `get_weights` does.
    """

    def __init__(self, weights: Callable[[str], Weights]) -> None:
        # not at the top of the module: a recipe is read without waiting for them
        import ndonnx
        import spox.opset.ai.onnx.v21 as onnx

        self._xp, self._onnx, self._weights = ndonnx, onnx, weights

    def prefixed(self, prefix: str) -> "OnnxTape":
        return OnnxTape(lambda name: self._weights(prefix + name))

    def dense(
        self,
        name: str,
        x: Array,
        units: int,
        *,
        activation: str | None = None,
        is_output: bool = False,
        is_frozen: bool = False,
        gain: float = 1.0,
    ) -> Array:
        kernel, bias = self._weights(name)
        outputs = self._apply("matmul", x, kernel) + self._xp.asarray(bias)
        return outputs if activation is None else getattr(self, activation)(outputs)

    def embed(self, name: str, index: Array, size: int, width: int) -> Array:
        (table,) = self._weights(name)
        return self._apply("gather", table, index, axis=0)

    def recur(
        self,
        name: str,
        cell: str,
        x: Array,
        units: int,
        *,
        initial: States | None = None,
        is_reversed: bool = False,
        dropout: float = 0.0,
    ) -> tuple[Array, States]:
        before = None if initial is None else tuple(state.unwrap_spox() for state in initial)
        inputs = self._onnx.transpose(x.unwrap_spox(), perm=[1, 0, 2])
        outputs, states = CELLS[cell].trace(inputs, self._weights(name), before, is_reversed)
        return self._xp.asarray(self._onnx.transpose(outputs, perm=[1, 0, 2])), tuple(map(self._xp.asarray, states))

    def dropout(self, x: Array, rate: float) -> Array:
        return x

    def concat(self, arrays: list[Array]) -> Array:
        return self._xp.concat(arrays, axis=-1) if len(arrays) > 1 else arrays[0]

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self._xp.reshape(x, shape)

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        return self._xp.permute_dims(x, axes)

    def repeat(self, x: Array, count: int) -> Array:
        return self._xp.concat([self._xp.expand_dims(x, axis=1)] * count, axis=1)

    def positions(self, like: Array, count: int) -> Array:
        # reshaped, because the size of an axis that is sliced is unknown to the graph
        zeros = self._xp.reshape(self._xp.zeros_like(like[:, :1], dtype=self._xp.int64), (-1, 1))
        return zeros + self._xp.asarray(np.arange(count, dtype=np.int64)[None])

    def matmul(self, x: Array, y: Array) -> Array:
        return self._apply("matmul", x, y)

    def softmax(self, x: Array) -> Array:
        return self._apply("softmax", x, axis=-1)

    def softplus(self, x: Array) -> Array:
        return self._apply("softplus", x)

    def tanh(self, x: Array) -> Array:
        return self._xp.tanh(x)

    def relu(self, x: Array) -> Array:
        return self._apply("relu", x)

    def cumulative_sum(self, x: Array) -> Array:
        return self._xp.cumulative_sum(x, axis=-1)

    def _apply(self, operator: str, *arrays: Any, **attributes: Any) -> Array:
        """Return an ONNX operator's result; ndonnx lacks most of these, and writes a subgraph for a matrix product."""
        onnx = self._onnx
        variables = [onnx.const(array) if isinstance(array, np.ndarray) else array.unwrap_spox() for array in arrays]
        return self._xp.asarray(getattr(onnx, operator)(*variables, **attributes))
