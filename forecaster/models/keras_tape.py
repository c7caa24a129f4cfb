"""The tape that builds a network's Keras layers."""

import copy
from typing import Any

from forecaster.models.cells import CELLS
from forecaster.models.tape import Array, States

# seeds of successive layers lie this far apart: a layer uses up to four of them
_SEEDS_PER_LAYER = 10


class KerasTape:
    """Builds Keras layers; a name that was used before returns the same layer.

    Args:
        seed: determines the initial weights and the dropout masks.
        batch_size: the size of every batch, for layers that keep their states from batch to batch; None for layers that
            start each batch from zeros.
    """

    def __init__(self, seed: int, batch_size: int | None = None) -> None:
        # not at the top of the module: a recipe is read without waiting for Keras
        import keras

        self._keras = keras
        self._seed = seed
        self._is_stateful = batch_size is not None
        self._layers: dict[str, Any] = {}
        self._prefix = ""

    def prefixed(self, prefix: str) -> "KerasTape":
        # the copy shares the layers, whose number determines the seed of the next
        other = copy.copy(self)
        other._prefix = prefix
        return other

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
        name = self._prefix + name
        if name not in self._layers:
            layer = self._keras.layers.Dense(
                units,
                activation=activation,
                # Glorot's uniform distribution where the gain is 1
                kernel_initializer=self._keras.initializers.VarianceScaling(
                    gain**2, "fan_avg", "uniform", self._next_seed()
                ),
                trainable=not is_frozen,
                name=name,
                dtype="float32" if is_output else None,
            )
            self._layers[name] = layer
        return self._layers[name](x)

    def embed(self, name: str, index: Array, size: int, width: int) -> Array:
        name = self._prefix + name
        if name not in self._layers:
            initializer = self._keras.initializers.RandomUniform(seed=self._next_seed())
            self._layers[name] = self._keras.layers.Embedding(
                size, width, embeddings_initializer=initializer, name=name
            )
        return self._layers[name](index)

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
        name = self._prefix + name
        if name not in self._layers:
            options = {"go_backwards": is_reversed, "recurrent_dropout": dropout, "stateful": self._is_stateful}
            self._layers[name] = CELLS[cell].build(units, self._next_seed(), name=name, **options)
        outputs, *states = self._layers[name](x, initial_state=None if initial is None else list(initial))
        return self._keras.ops.flip(outputs, axis=1) if is_reversed else outputs, tuple(states)

    def dropout(self, x: Array, rate: float) -> Array:
        # the seed after those of the layer before
        seed = self._seed + _SEEDS_PER_LAYER * (len(self._layers) - 1) + 2
        return self._keras.layers.Dropout(rate, seed=seed)(x) if rate else x

    def concat(self, arrays: list[Array]) -> Array:
        return self._keras.ops.concatenate(arrays, axis=-1) if len(arrays) > 1 else arrays[0]

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self._keras.ops.reshape(x, shape)

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        return self._keras.ops.transpose(x, axes)

    def repeat(self, x: Array, count: int) -> Array:
        return self._keras.ops.repeat(x[:, None], count, axis=1)

    def positions(self, like: Array, count: int) -> Array:
        zeros = self._keras.ops.zeros_like(like[:, :1], dtype="int32")
        return zeros + self._keras.ops.arange(count, dtype="int32")[None]

    def matmul(self, x: Array, y: Array) -> Array:
        return self._keras.ops.matmul(x, y)

    def softmax(self, x: Array) -> Array:
        return self._keras.ops.softmax(x, axis=-1)

    def softplus(self, x: Array) -> Array:
        return self._keras.ops.softplus(x)

    def tanh(self, x: Array) -> Array:
        return self._keras.ops.tanh(x)

    def relu(self, x: Array) -> Array:
        return self._keras.ops.relu(x)

    def cumulative_sum(self, x: Array) -> Array:
        return self._keras.ops.cumsum(x, axis=-1)

    def _next_seed(self) -> int:
        return self._seed + _SEEDS_PER_LAYER * len(self._layers)
