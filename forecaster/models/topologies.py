"""Topologies: what of a recurrent stack's outputs is a forecast, and what it learns from. A new one is one entry."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.domain.series import Floats


@dataclass(frozen=True)
class Topology:
    """How a stack of recurrent layers, answering at each step, becomes a forecast.

    Args:
        answers_each_step: whether every step predicts its own next `horizon` values and the loss is over all of them
            (many-to-many, the last step being the forecast), or the last hidden state alone predicts (many-to-one).
    """

    answers_each_step: bool

    def readout(self, hidden: Any) -> Any:
        """Return what the head is applied to: `(batch, time, units)` as it is, or its last step `(batch, units)`."""
        return hidden if self.answers_each_step else hidden[:, -1, :]

    def ahead(self, known: Any, input_size: int, horizon: int) -> Any:
        """Return what the head is told of the horizon: `(batch, [time,] horizon · features)`, step by step.

        Args:
            known: what is known ahead, `(batch, input_size + horizon, features)`.
            input_size: steps of input.
            horizon: steps of forecast.
        """
        import keras

        first = 1 if self.answers_each_step else input_size
        steps = [known[:, first + step : input_size + step + 1] for step in range(horizon)]
        # (batch, time or 1, horizon · features)
        joined = keras.ops.concatenate(steps, axis=-1)
        return joined if self.answers_each_step else joined[:, 0, :]

    def targets(self, windows: Windows, index: NDArray[np.int64]) -> Floats:
        """Return raw targets: `(n, input_size, horizon)` or `(n, horizon)`."""
        return windows.targets_each_step(index) if self.answers_each_step else windows.targets(index)

    def last(self, outputs: Any) -> Any:
        """Return the forecast `(batch, horizon)` among the network's outputs."""
        return outputs[:, -1, :] if self.answers_each_step else outputs


TOPOLOGIES = {
    "many_to_one": Topology(answers_each_step=False),
    "many_to_many": Topology(answers_each_step=True),
}
