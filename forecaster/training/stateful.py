"""Truncated backpropagation through time: a network that carries its state from chunk to chunk of each series.

Each stretch of train rows is read once per epoch, in order. The state goes on from row to row and starts from zeros
where a stretch begins. Gradients flow back to the first row of a piece of `backprop_steps` rows, and the optimizer
takes a step after the pieces of a chunk, with the mean of their gradients.

The network that reads pieces has the weights of the network that is served, which reads windows of `input_size` rows
and starts each from zeros.

Source: Williams & Peng (1990), doi:10.1162/neco.1990.2.4.490, section 3, with pieces that do not overlap: no gradient
flows over a piece's first row, so a row's gradient looks back 1 to `backprop_steps` rows.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.models.network import build_model
from forecaster.training import networks
from forecaster.training.examples import Examples
from forecaster.training.fit_config import FitConfig, Truncation

if TYPE_CHECKING:
    import keras

_STATE = "rnn_state"


@dataclass(frozen=True)
class Streams:
    """The stretches of the train rows, in groups that a network reads side by side.

    Args:
        examples: the train windows, whose rows are read.
        config: how the network is fitted.
        truncation: how the rows are read.
    """

    examples: Examples
    config: FitConfig
    truncation: Truncation

    @property
    def width(self) -> int:
        """Return how many stretches are read side by side."""
        return min(self.config.batch_size, len(self.examples.windows.first))

    @property
    def groups(self) -> list[NDArray[np.int64]]:
        """Return the stretches of each group: those of similar length, the longest first."""
        order = np.argsort(-self._rows, kind="stable")
        return [order[begin : begin + self.width] for begin in range(0, len(order), self.width)]

    @property
    def chunks(self) -> int:
        """Return the number of chunks of all groups."""
        return sum(self._chunks_of(group) for group in self.groups)

    @property
    def _rows(self) -> NDArray[np.int64]:
        """Return how many rows of each stretch are inputs."""
        windows = self.examples.windows
        return np.asarray((windows.counts - 1) * windows.step_size + windows.input_size)

    def _chunks_of(self, group: NDArray[np.int64]) -> int:
        return -int(-self._rows[group].max() // self.truncation.chunk)

    def read(
        self, group: NDArray[np.int64], hide: np.random.Generator
    ) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float32]]:
        """Return the pieces of a group, `(pieces · width, …)`: the inputs, the targets, and the weight of each row.

        Pieces at the same place of all stretches follow each other. Rows beyond a stretch's end have weight 0. `hide`
        chooses the series and categories that become unknown.
        """
        truncation = self.truncation
        pieces = self._chunks_of(group) * truncation.chunk // truncation.backprop_steps
        read = [self._read(stretch, pieces, truncation.backprop_steps, hide) for stretch in group]
        empty = [np.zeros_like(array) for array in read[0]]
        columns = zip(*read, *[empty] * (self.width - len(group)), strict=True)
        *inputs, targets, weights = (np.stack(column, axis=1).reshape(-1, *column[0].shape[1:]) for column in columns)
        return inputs, targets, weights

    def _read(self, stretch: int, pieces: int, steps: int, hide: np.random.Generator) -> list[NDArray[Any]]:
        """Return the pieces of a stretch: its inputs, its targets and its weights, `(pieces, …)`."""
        whole = _as_one_window(self.examples.windows, stretch)
        inputs, targets = replace(self.examples, windows=whole).take(np.zeros(1, dtype=np.int64), hide)
        rows = np.arange(pieces * steps).reshape(pieces, steps)
        within = np.minimum(rows, whole.input_size - 1)
        ahead = np.minimum(rows[:, :1] + np.arange(steps + whole.horizon), whole.input_size + whole.horizon - 1)
        x, *others = (array[0] for array in inputs)
        # columns known ahead have an axis of time, the numbers of a series have none
        others = [array[ahead] if array.ndim == 2 else np.tile(array, (pieces, 1)) for array in others]
        return [x[within], *others, targets[0][within], (rows < whole.input_size).astype(np.float32)]


def _as_one_window(windows: Windows, stretch: int) -> Windows:
    """Return a stretch's rows as a single window."""
    count = int(windows.counts[stretch])
    return replace(
        windows.choose(np.array([stretch])),
        counts=np.ones(1, dtype=np.int64),
        input_size=(count - 1) * windows.step_size + windows.input_size,
        step_size=1,
    )


def reader_of(model: "keras.Model", streams: Streams, seed: int) -> "keras.Model":
    """Return a compiled network that reads pieces of streams and keeps its state, with the weights of `model`."""
    config, truncation, described = streams.config, streams.truncation, streams.examples.model
    shape = replace(streams.examples.shape, input_size=truncation.backprop_steps)
    pieces = truncation.chunk // truncation.backprop_steps
    reader = networks.get_compiled(
        lambda: build_model(described, shape, seed, streams.width),
        networks.NetworkKey(seed, described, shape, streams.examples.preprocessing.is_masked, streams.width),
        config,
        networks.Batches(streams.width, streams.chunks * pieces, pieces),
    )
    copy_weights(model, reader)
    return reader


def copy_weights(source: "keras.Model", target: "keras.Model") -> None:
    """Copy all weights but the states of recurrent layers."""
    import keras

    for weight, other in zip(_weights(source), _weights(target), strict=True):
        # JAX deletes the array of a weight that a step replaces, which the other network must not share
        other.assign(keras.ops.copy(weight))


def _weights(model: "keras.Model") -> list[Any]:
    return [weight for weight in model.weights if weight.name != _STATE]


def run_epoch(reader: "keras.Model", streams: Streams, random: np.random.Generator) -> float:
    """Read all groups, in random order; return the mean loss of their rows."""
    total, count = 0.0, 0.0
    for number in random.permutation(len(streams.groups)):
        inputs, targets, weights = streams.read(streams.groups[number], random)
        for layer in reader.layers:
            if getattr(layer, "stateful", False):
                layer.reset_state()
        total += networks.fit_batches(reader, streams.width, inputs, targets, weights) * weights.size
        count += float(weights.sum())
    return total / count
