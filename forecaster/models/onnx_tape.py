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
        self._weights = weights

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
        import ndonnx

        kernel, bias = self._weights(name)
        outputs = _apply("matmul", x, kernel) + ndonnx.asarray(bias)
        return outputs if activation is None else getattr(self, activation)(outputs)

    def embed(self, name: str, index: Array, size: int, width: int) -> Array:
        (table,) = self._weights(name)
        return _apply("gather", table, index, axis=0)

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
        import ndonnx
        import spox.opset.ai.onnx.v21 as onnx

        before = None if initial is None else tuple(state.unwrap_spox() for state in initial)
        inputs = onnx.transpose(x.unwrap_spox(), perm=[1, 0, 2])
        outputs, states = CELLS[cell].trace(inputs, self._weights(name), before, is_reversed)
        return ndonnx.asarray(onnx.transpose(outputs, perm=[1, 0, 2])), tuple(map(ndonnx.asarray, states))

    def dropout(self, x: Array, rate: float) -> Array:
        return x

    def concat(self, arrays: list[Array]) -> Array:
        import ndonnx

        return ndonnx.concat(arrays, axis=-1) if len(arrays) > 1 else arrays[0]

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        import ndonnx

        return ndonnx.reshape(x, shape)

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        import ndonnx

        return ndonnx.permute_dims(x, axes)

    def repeat(self, x: Array, count: int) -> Array:
        import ndonnx

        return ndonnx.concat([ndonnx.expand_dims(x, axis=1)] * count, axis=1)

    def positions(self, like: Array, count: int) -> Array:
        import ndonnx

        zeros = ndonnx.zeros_like(like[:, :1], dtype=ndonnx.int64)
        return zeros + ndonnx.asarray(np.arange(count, dtype=np.int64)[None])

    def matmul(self, x: Array, y: Array) -> Array:
        return _apply("matmul", x, y)

    def softmax(self, x: Array) -> Array:
        return _apply("softmax", x, axis=-1)

    def softplus(self, x: Array) -> Array:
        return _apply("softplus", x)

    def tanh(self, x: Array) -> Array:
        import ndonnx

        return ndonnx.tanh(x)

    def relu(self, x: Array) -> Array:
        return _apply("relu", x)

    def cumulative_sum(self, x: Array) -> Array:
        import ndonnx

        return ndonnx.cumulative_sum(x, axis=-1)


def _apply(operator: str, *arrays: Any, **attributes: Any) -> Array:
    """Return the result of an ONNX operator; ndonnx lacks most of these, and writes a subgraph for a matrix product."""
    import ndonnx
    import spox.opset.ai.onnx.v21 as onnx

    variables = [onnx.const(array) if isinstance(array, np.ndarray) else array.unwrap_spox() for array in arrays]
    return ndonnx.asarray(getattr(onnx, operator)(*variables, **attributes))
