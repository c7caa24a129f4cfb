"""Column names of the long frame, and the arrays that a validated long frame becomes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.static import NO_STATIC, StaticColumns

UNIQUE_ID = "unique_id"
DS = "ds"
Y = "y"
CUTOFF = "cutoff"
MEAN = "mean"

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]
# the range of datetime64[ns], in whole seconds
FIRST_TIME, LAST_TIME = np.datetime64("1677-09-21T00:12:44", "s"), np.datetime64("2262-04-11T23:47:16", "s")


def lower(level: float) -> str:
    """Return the column name of an interval's lower bound, such as `lo-80`."""
    return f"lo-{level:g}"


def upper(level: float) -> str:
    """Return the column name of an interval's upper bound, such as `hi-80`."""
    return f"hi-{level:g}"


def quantile_name(quantile: float) -> str:
    """Return the column name of a quantile (0–1), such as `q-10` or `q-2.5`."""
    return f"q-{quantile * 100:g}"


# the field of an answer that holds sample paths
SAMPLES = "samples"


def sample_name(number: int) -> str:
    """Return the column name of a sample path, counted from 1, such as `sample-1`."""
    return f"sample-{number}"


# the names of the served graph's inputs
X, KNOWN, STATIC = "x", "known", "static"


@dataclass(frozen=True)
class Inputs:
    """The inputs of forecasts, raw values in float64, as the served graph takes them.

    Args:
        values: `x`, `(n, input_size, 1 + hist_exog)`; the target is feature 0.
        known: the columns known ahead, `(n, input_size + horizon, futr_exog + calendar_features)`; None if the model
            has none.
        static: what describes each series as a whole, `(n, columns)`; None if the model takes nothing of the kind.
    """

    values: Floats
    known: Floats | None = None
    static: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, tensors: Mapping[str, Floats]) -> "Inputs":
        """Return the inputs whose `feeds` are `tensors`."""
        return cls(tensors[X], tensors.get(KNOWN), tensors.get(STATIC))

    @classmethod
    def join(cls, parts: Sequence["Inputs"]) -> "Inputs":
        """Return the windows of all parts, which have the same tensors."""
        return cls.of({name: np.concatenate([part.feeds[name] for part in parts]) for name in parts[0].feeds})

    def take(self, rows: slice | NDArray[np.int64]) -> "Inputs":
        """Return the windows at `rows`."""
        return Inputs.of({name: array[rows] for name, array in self.feeds.items()})

    @property
    def target(self) -> Floats:
        """Return the target's history, `(n, input_size)`, a view."""
        return self.values[:, :, 0]

    @property
    def feeds(self) -> dict[str, Floats]:
        """Return the arrays by the served graph's input names."""
        tensors = {X: self.values, KNOWN: self.known, STATIC: self.static}
        return {name: array for name, array in tensors.items() if array is not None}


@dataclass(frozen=True)
class Series:
    """Validated series, concatenated.

    Args:
        unique_ids: one name per series, `(n_series,)`.
        values: the rows of all series, `(rows, 1 + hist_exog)`, float64, finite; the target is feature 0.
        timestamps: the time of each row, `(rows,)`, datetime64, without a time zone.
        bounds: the first row of each series, and the end of the last, `(n_series + 1,)`.
        freq: the common frequency, as in `forecaster.domain.frequency`.
        known: the columns known ahead, `(rows, features)`, float64, finite; None if there are none.
        static: what describes each series as a whole, `(n_series, columns)`, float64; None if nothing does.
        static_columns: the columns of `static`.
    """

    unique_ids: tuple[str, ...]
    values: Floats
    timestamps: Times
    bounds: NDArray[np.int64]
    freq: str
    known: Floats | None = None
    static: Floats | None = None
    static_columns: StaticColumns = NO_STATIC

    def __len__(self) -> int:
        return len(self.unique_ids)

    def __iter__(self) -> Iterator[tuple[str, slice]]:
        """Yield each series' name and its rows."""
        for index, unique_id in enumerate(self.unique_ids):
            yield unique_id, self.rows(index)

    def rows(self, index: int) -> slice:
        """Return the rows of the series at `index`."""
        return slice(int(self.bounds[index]), int(self.bounds[index + 1]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of rows of each series, `(n_series,)`."""
        return np.diff(self.bounds)
