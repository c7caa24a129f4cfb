"""Forecasts of windows: the mean, and the distribution around it if the model forecasts one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of `n` windows.

    Args:
        mean: `(n, horizon)`.
        offsets: the quantiles of the model's own distribution minus the mean, for `conformal.PROBABILITIES`,
            `(n, horizon, len(PROBABILITIES))`; None if the model forecasts no distribution.
    """

    mean: Floats
    offsets: Floats | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Forecasts":
        """Return the forecasts at `rows`."""
        return Forecasts(self.mean[rows], None if self.offsets is None else self.offsets[rows])

    @classmethod
    def join(cls, parts: Sequence["Forecasts"]) -> "Forecasts":
        """Return all forecasts of one model."""
        offsets = [part.offsets for part in parts if part.offsets is not None]
        return cls(np.concatenate([part.mean for part in parts]), np.concatenate(offsets) if offsets else None)
