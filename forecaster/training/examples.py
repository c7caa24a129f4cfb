"""Windows as a network's examples: transformed, chunk by chunk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.models.network import ModelConfig, shape_of
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import Float32, network_inputs

# the share of the positions in embeddings that are hidden from the network in training, so that it learns what to
# forecast for an unknown series or category
HIDDEN_SHARE = 0.1
# input values that are transformed at a time: few enough to bound memory, enough to keep Keras busy
CHUNK_VALUES = 2**20


@dataclass(frozen=True)
class Examples:
    """Windows as the network's input: transformed, in float32, computed chunk by chunk."""

    windows: Windows
    preprocessing: Preprocessing
    model: ModelConfig

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def shape(self) -> NetworkShape:
        """Return the shape of a network that takes these examples."""
        return shape_of(self.model, self.preprocessing, self.windows.input_size, self.windows.horizon)

    def take(
        self, index: NDArray[np.int64], hide: np.random.Generator | None = None
    ) -> tuple[list[NDArray[Any]], Float32]:
        """Return the network's inputs, and the targets that the decoder learns from.

        Args:
            index: the windows.
            hide: chooses the series and categories that become unknown; None hides none.
        """
        prepared, contexts = self.preprocessing.forward(self.windows.inputs(index).feeds)
        if hide is not None and "codes" in prepared:
            codes = prepared["codes"]
            prepared["codes"] = np.where(hide.random(codes.shape) < HIDDEN_SHARE, 0, codes)
        targets = self.preprocessing.target.targets(self.model.decoder.targets(self.windows, index), contexts)
        return network_inputs(prepared), targets.astype(np.float32)

    def weights(self, count: int) -> Float32 | None:
        """Return the loss weight of each step, `(count, input_size)`; None if every step has weight 1.

        The first steps have weight 0 if a transform's running statistics are still based on few values there.
        """
        warm_up = self.preprocessing.target.warm_up
        if not warm_up:
            return None
        steps = np.ones(self.windows.input_size, dtype=np.float32)
        steps[: int(np.ceil(warm_up * len(steps)))] = 0
        return np.tile(steps, (count, 1))

    def chunks(self, index: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Yield `index` in chunks of whole batches, each small enough to bound memory."""
        values = self.windows.input_size * (self.windows.horizon if self.model.decoder.answers_each_step else 1)
        size = max(1, CHUNK_VALUES // (values * batch_size)) * batch_size
        for begin in range(0, len(index), size):
            yield index[begin : begin + size]
