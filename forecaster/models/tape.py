"""A tape: the operations that a network may consist of.

A network is described once, as a function of a tape. `KerasTape` builds its layers for training, `OnnxTape` traces the
same description into the served graph with the trained weights, so the two cannot differ in structure. Besides these
operations, a description may use the arithmetic operators, and slices that name every axis or use `...`.
"""

from typing import Any, Protocol

# a symbolic Keras tensor, or a traced ONNX array
Array = Any
# the states of a recurrent layer, each `(batch, units)`: the hidden state first
States = tuple[Array, ...]


class Tape(Protocol):
    """The operations; a `name` identifies a layer's weights, and the same name twice shares them."""

    def prefixed(self, prefix: str) -> "Tape":
        """Return a tape of the same network that puts a prefix before each name."""

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
        """Return `x W + b`, `(…, units)`.

        Args:
            name: the layer's name.
            x: `(…, inputs)`.
            units: number of outputs.
            activation: `relu`, `tanh`, or None.
            is_output: whether to compute in float32 also in mixed precision, because float16 would round the forecast.
            is_frozen: whether training leaves the weights as they are.
            gain: what the initial weights are multiplied by.
        """

    def embed(self, name: str, index: Array, size: int, width: int) -> Array:
        """Return the rows of a learned table `(size, width)` at `index` `(batch, …)`, `(batch, …, width)`."""

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
        """Return the outputs of a recurrent layer at each step `(batch, time, units)`, and its last states.

        Args:
            name: the layer's name.
            cell: a name in `CELLS`.
            x: `(batch, time, inputs)`.
            units: number of units.
            initial: the states before the first step; zeros when None.
            is_reversed: whether the layer runs from the last step to the first; its outputs stay in the order of `x`.
            dropout: the share of the recurrent inputs that training drops.
        """

    def dropout(self, x: Array, rate: float) -> Array:
        """Return `x` with a share of values set to 0 in training, and the others scaled up."""

    def concat(self, arrays: list[Array]) -> Array:
        """Join arrays along their last axis."""

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Return `x` in another shape; -1 stands for the batch."""

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        """Return `x` with its axes in another order; the batch stays first."""

    def repeat(self, x: Array, count: int) -> Array:
        """Return `x` `(batch, …)` repeated along a new axis, `(batch, count, …)`."""

    def positions(self, like: Array, count: int) -> Array:
        """Return the integers from 0 to `count`, `(batch, count)`, for the batch of `like` `(batch, units)`."""

    def matmul(self, x: Array, y: Array) -> Array:
        """Return the matrix product of the last two axes."""

    def softmax(self, x: Array) -> Array:
        """Return the softmax along the last axis."""

    def softplus(self, x: Array) -> Array:
        """Return `log(1 + exp(x))`."""

    def tanh(self, x: Array) -> Array:
        """Return the hyperbolic tangent."""

    def relu(self, x: Array) -> Array:
        """Return the larger of `x` and 0."""

    def cumulative_sum(self, x: Array) -> Array:
        """Return the sums up to each position of the last axis."""
