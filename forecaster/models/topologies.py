"""Topologies: which outputs of a recurrent stack are the forecast, and its targets. Add a topology to `TOPOLOGIES`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.domain.series import Floats


@dataclass(frozen=True)
class Topology:
    """How the outputs of a stack of recurrent layers become a forecast.

    Args:
        answers_each_step: True for many-to-many: every step predicts its own next `horizon` values, the loss covers all
            steps, and the last step is the forecast. False for many-to-one: only the last hidden state predicts.
    """

    answers_each_step: bool

    def readout(self, hidden: Any) -> Any:
        """Return the head's input: all of `hidden (batch, time, units)`, or its last step `(batch, units)`."""
        return hidden if self.answers_each_step else hidden[:, -1, :]

    def ahead(self, known: Any, input_size: int, horizon: int) -> Any:
        """Return the head's input about the horizon, `(batch, [time,] horizon · features)`.

        Args:
            known: the values known ahead, `(batch, input_size + horizon, features)`.
            input_size: steps of input.
            horizon: steps of forecast.
        """
        import keras

        first = 1 if self.answers_each_step else input_size
        steps = [known[:, first + step : input_size + step + 1] for step in range(horizon)]
        # shape (batch, time or 1, horizon · features)
        joined = keras.ops.concatenate(steps, axis=-1)
        return joined if self.answers_each_step else joined[:, 0, :]

    def targets(self, windows: Windows, index: NDArray[np.int64]) -> Floats:
        """Return raw targets, `(n, input_size, horizon)` or `(n, horizon)`."""
        return windows.targets_each_step(index) if self.answers_each_step else windows.targets(index)

    def last(self, outputs: Any) -> Any:
        """Return the forecast `(batch, horizon)` from the network's outputs."""
        return outputs[:, -1, :] if self.answers_each_step else outputs


TOPOLOGIES = {
    "many_to_one": Topology(answers_each_step=False),
    "many_to_many": Topology(answers_each_step=True),
}
