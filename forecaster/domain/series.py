"""The long frame's column names, and the arrays that a checked long frame becomes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIQUE_ID = "unique_id"
DS = "ds"
Y = "y"
CUTOFF = "cutoff"
MEAN = "mean"

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]


def lower(level: float) -> str:
    """Name the column of an interval's lower bound: `lo-80`."""
    return f"lo-{level:g}"


def upper(level: float) -> str:
    """Name the column of an interval's upper bound: `hi-80`."""
    return f"hi-{level:g}"


def quantile_name(quantile: float) -> str:
    """Name the column of a quantile (0–1) by its percentage: `q-10`, `q-2.5`."""
    return f"q-{quantile * 100:g}"


@dataclass(frozen=True)
class Inputs:
    """What forecasts are made from.

    Args:
        values: raw, `(n, input_size, 1 + hist_exog)`, float64; the target is feature 0.
        known: raw, `(n, input_size + horizon, futr_exog + calendar_features)`, float64; None where there are none.
    """

    values: Floats
    known: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: slice | NDArray[np.int64]) -> "Inputs":
        """Return some of the windows."""
        return Inputs(self.values[rows], None if self.known is None else self.known[rows])

    @property
    def target(self) -> Floats:
        """Return the target's own past, `(n, input_size)`, a view."""
        return self.values[:, :, 0]

    @property
    def feeds(self) -> dict[str, Floats]:
        """Return the arrays by the names that the served graph has for them."""
        return {"x": self.values} if self.known is None else {"x": self.values, "known": self.known}


@dataclass(frozen=True)
class Series:
    """Many series laid end to end, checked once and trusted from there on.

    Args:
        unique_ids: one name per series, `(n_series,)`.
        values: every series' rows, one after the other, `(rows, 1 + hist_exog)`, float64, finite; the target is
            feature 0.
        timestamps: the rows' times, `(rows,)`, datetime64, without a zone.
        bounds: where each series begins, and the end of the last, `(n_series + 1,)`.
        freq: the frequency that all of them share, as `forecaster.domain.frequency` spells it.
        known: what is known ahead of its time, `(rows, features)`, float64, finite; None where there is nothing.
    """

    unique_ids: tuple[str, ...]
    values: Floats
    timestamps: Times
    bounds: NDArray[np.int64]
    freq: str
    known: Floats | None = None

    def __len__(self) -> int:
        return len(self.unique_ids)

    def __iter__(self) -> Iterator[tuple[str, slice]]:
        """Yield each series' name and its rows."""
        for index, unique_id in enumerate(self.unique_ids):
            yield unique_id, self.rows(index)

    def rows(self, index: int) -> slice:
        """Return the rows of series number `index`."""
        return slice(int(self.bounds[index]), int(self.bounds[index + 1]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of rows of each series, `(n_series,)`."""
        return np.diff(self.bounds)
