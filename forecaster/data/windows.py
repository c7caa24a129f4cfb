"""Windows over many series, as strided views. No window crosses two series or two parts of a split."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field, model_validator

from forecaster.domain.config import Config
from forecaster.domain.errors import TooShortError
from forecaster.domain.series import Floats, Inputs, Series, Times
from forecaster.domain.static import NO_STATIC, StaticColumns

PARTS = ("train", "validation", "calibration", "test")


class SplitConfig(Config):
    """The shares of the four parts, which must add up to 1.

    The network is fitted on `train`; `validation` is for early stopping and model selection; `calibration` sizes the
    intervals; `test` is evaluated once. `by: time` splits each series chronologically; `by: series` assigns whole
    series to parts.
    """

    by: Literal["time", "series"] = "time"
    train: float = Field(0.7, gt=0, lt=1)
    validation: float = Field(0.1, gt=0, lt=1)
    calibration: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _adds_up(self) -> "SplitConfig":
        total = sum(self.shares)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + calibration + test must be 1, not {total:g}")
        return self

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Return the four shares in the order of `PARTS`."""
        return self.train, self.validation, self.calibration, self.test


@dataclass(frozen=True)
class Windows:
    """The windows of stretches of rows. Values are copied only when a batch is taken.

    A window consists of `input_size` input rows and the next `horizon` target rows.

    Args:
        values: all rows, `(rows, 1 + hist_exog)`; the target is feature 0.
        first: the first row of each stretch, `(n_stretches,)`.
        counts: the number of windows in each stretch, `(n_stretches,)`.
        owners: the position of each stretch's series, `(n_stretches,)`.
        input_size: number of input rows.
        horizon: number of target rows.
        step_size: rows between the starts of successive windows within a stretch.
        known: the columns known ahead, all rows, `(rows, features)`, or None.
        static: what describes each series as a whole, `(n_series, columns)`, or None.
        static_columns: the columns of `static`.
        timestamps: the time of each row, `(rows,)`.
    """

    values: Floats
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    owners: NDArray[np.int64]
    input_size: int
    horizon: int
    step_size: int = 1
    known: Floats | None = None
    static: Floats | None = None
    static_columns: StaticColumns = NO_STATIC
    timestamps: Times = field(kw_only=True)

    @classmethod
    def over(
        cls,
        series: Series,
        first: NDArray[np.int64],
        counts: NDArray[np.int64],
        owners: NDArray[np.int64],
        *,
        input_size: int,
        horizon: int,
        step_size: int = 1,
    ) -> "Windows":
        """Return windows of these stretches of rows of `series`; the other arguments are those of the class."""
        return cls(
            series.values,
            first,
            counts,
            owners,
            input_size,
            horizon,
            step_size,
            known=series.known,
            static=series.static,
            static_columns=series.static_columns,
            timestamps=series.timestamps,
        )

    def __len__(self) -> int:
        return int(self.counts.sum())

    def starts(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first row of each window in `index`, `(n,)`."""
        ends, stretch = np.cumsum(self.counts), self._stretches(index)
        number = index - (ends[stretch] - self.counts[stretch])
        return np.asarray(self.first[stretch] + number * self.step_size)

    def owners_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of the series of each window in `index`, `(n,)`."""
        return np.asarray(self.owners[self._stretches(index)])

    def _stretches(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(np.cumsum(self.counts), index, side="right")

    def inputs(self, index: NDArray[np.int64] | None = None) -> Inputs:
        """Return the inputs of all windows or of those in `index`; a view if there is a single stretch and no index."""
        values = self._take(self._view(self.values, self.input_size), 0, index)
        known = static = None
        if self.known is not None:
            known = self._take(self._view(self.known, self.input_size + self.horizon), 0, index)
        if self.static is not None:
            static = self.static[self.owners_of(np.arange(len(self)) if index is None else index)]
        return Inputs(values, known, static)

    def targets(self, index: NDArray[np.int64] | None = None) -> Floats:
        """Return many-to-one targets `(n, horizon)`, the rows after each window's inputs; a view as for `inputs`."""
        view = sliding_window_view(self.values[:, 0], self.horizon)
        return self._take(view, self.input_size, index)

    def targets_each_step(self, index: NDArray[np.int64] | None = None) -> Floats:
        """Return many-to-many targets `(n, input_size, horizon)`, the `horizon` rows after each input step."""
        ahead = sliding_window_view(self.values[1:, 0], self.horizon)
        view = sliding_window_view(ahead, self.input_size, axis=0).swapaxes(1, 2)
        return self._take(view, 0, index)

    def input_times(self, timestamps: NDArray[np.datetime64], index: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """Return the times of the inputs, `(n, input_size)`."""
        return np.asarray(timestamps[self.starts(index)[:, None] + np.arange(self.input_size)])

    def target_times(self, timestamps: NDArray[np.datetime64], index: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """Return the times of the many-to-one targets, `(n, horizon)`."""
        return np.asarray(timestamps[self.starts(index)[:, None] + self.input_size + np.arange(self.horizon)])

    def choose(self, stretches: NDArray[np.int64]) -> "Windows":
        """Return the windows of the stretches at `stretches`."""
        return replace(self, first=self.first[stretches], counts=self.counts[stretches], owners=self.owners[stretches])

    def chunks(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield the indices of all windows in order, at most `size` at a time."""
        for begin in range(0, len(self), size):
            yield np.arange(begin, min(begin + size, len(self)))

    @staticmethod
    def _view(rows: Floats, length: int) -> Floats:
        return sliding_window_view(rows, length, axis=0).swapaxes(1, 2)

    def _take(self, view: Floats, offset: int, index: NDArray[np.int64] | None) -> Floats:
        if index is not None:
            return view[self.starts(index) + offset]
        if len(self.first) == 1:
            begin = int(self.first[0]) + offset
            return view[begin : begin + int(self.counts[0] - 1) * self.step_size + 1 : self.step_size]
        return view[self.starts(np.arange(len(self))) + offset]


def cut_windows(series: Series, input_size: int, horizon: int, step_size: int = 1) -> Windows:
    """Return the windows of every series; the last window ends at the last row for any `step_size`.

    Raises:
        TooShortError: series are shorter than `input_size + horizon`; the message counts them and names the first.
    """
    starts, ends = series.bounds[:-1], series.bounds[1:]
    starts = starts + np.maximum(ends - starts - input_size - horizon, 0) % step_size
    return _windows(series, starts, ends, input_size, horizon, step_size, "the whole series")


def split_windows(
    series: Series,
    split: SplitConfig,
    input_size: int,
    horizon: int,
    step_size: int = 1,
    parts: Sequence[str] = PARTS,
) -> dict[str, Windows]:
    """Return the windows of each part, by its name; each window lies inside its part.

    `step_size` applies to the train part; in other parts it is 1. The shares of fewer `parts` are rescaled to 1. In a
    split by time, a part omits series that have no window in it because they start later or end earlier.

    Raises:
        TooShortError: a part has no windows, or there are fewer series than parts.
    """
    cut = _cut_by_series if split.by == "series" else _cut_by_time
    shares = np.array([getattr(split, part) for part in parts])
    return {
        part: _windows(series, *stretches, input_size, horizon, step_size if part == "train" else 1, f"the {part} part")
        for part, stretches in zip(parts, cut(series, shares / shares.sum(), input_size + horizon), strict=True)
    }


Stretches = tuple[NDArray[np.int64], NDArray[np.int64]]


def _cut_by_time(series: Series, shares: Floats, length: int) -> list[Stretches]:
    """Cut all series at the same times, so that no part has data from after the start of a later part."""
    # the longest series determines the times; 1e-9 corrects rounding, so that .7 + .1 of 50 rows is 40 and not 39
    longest = series.rows(int(np.argmax(series.lengths)))
    rows = np.floor((longest.stop - longest.start) * np.cumsum(shares)[:-1] + 1e-9).astype(np.int64)
    times = series.timestamps[longest][rows]
    inner = [rows.start + np.searchsorted(series.timestamps[rows], times) for _, rows in series]
    borders = np.column_stack([series.bounds[:-1], np.array(inner), series.bounds[1:]])
    parts = []
    for number in range(len(shares)):
        starts, ends = borders[:, number], borders[:, number + 1]
        is_in = ends - starts >= length
        # without any window, keep all stretches, so that the error can name the first that is too short
        parts.append((starts[is_in], ends[is_in]) if is_in.any() else (starts, ends))
    return parts


def _cut_by_series(series: Series, shares: Floats, length: int) -> list[Stretches]:
    if len(series) < len(shares):
        raise TooShortError(f"split.by: series needs at least {len(shares)} series, found {len(series)}; use by: time")
    borders = np.floor(len(series) * np.concatenate(([0.0], np.cumsum(shares))) + 1e-9).astype(np.int64)
    starts, ends = series.bounds[:-1], series.bounds[1:]
    return [(starts[a:b], ends[a:b]) for a, b in itertools.pairwise(borders)]


def spans_of(*parts: Windows) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each series with windows in the parts, the first row of its windows, and the end of their rows, `(n,)`."""
    every = np.concatenate([part.owners for part in parts])
    first = np.concatenate([part.first for part in parts])
    last = np.concatenate([part.first + (part.counts - 1) * part.step_size for part in parts])
    owners, at = np.unique(every, return_inverse=True)
    begins, ends = np.full(len(owners), np.iinfo(np.int64).max), np.zeros(len(owners), dtype=np.int64)
    np.minimum.at(begins, at, first)
    np.maximum.at(ends, at, last + parts[0].input_size + parts[0].horizon)
    return owners, begins, ends


def are_observed(windows: Windows) -> NDArray[np.bool_]:
    """Return whether each window has an observed value of the target among its inputs and among its targets, `(n,)`."""
    seen = np.concatenate([[0], np.cumsum(~np.isnan(windows.values[:, 0]))])
    starts = windows.starts(np.arange(len(windows)))
    cutoffs = starts + windows.input_size
    return np.asarray((seen[cutoffs] > seen[starts]) & (seen[cutoffs + windows.horizon] > seen[cutoffs]))


def drop_unobserved(windows: Windows) -> Windows:
    """Return the windows that are observed; the others say nothing about the target."""
    # the smallest value is missing if any is; this takes no memory
    if not np.isnan(windows.values[:, 0].min()):
        return windows
    return choose_windows(windows, are_observed(windows))


def choose_windows(windows: Windows, is_kept: NDArray[np.bool_]) -> Windows:
    """Return the windows for which `is_kept`, `(n,)`, is true."""
    if is_kept.all():
        return windows
    starts = windows.starts(np.arange(len(windows)))
    stretch = np.repeat(np.arange(len(windows.counts)), windows.counts)
    follows = np.concatenate([[False], is_kept[:-1] & (stretch[1:] == stretch[:-1])])
    begins = is_kept & ~follows
    counts = np.bincount(np.cumsum(begins)[is_kept] - 1, minlength=0) if begins.any() else np.zeros(0)
    return replace(
        windows, first=starts[begins], counts=counts.astype(np.int64), owners=windows.owners[stretch[begins]]
    )


def _windows(
    series: Series,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    input_size: int,
    horizon: int,
    step_size: int,
    where: str,
) -> Windows:
    length = input_size + horizon
    counts = (ends - starts - length) // step_size + 1
    short = np.flatnonzero(counts < 1)
    if len(starts) == 0:
        raise TooShortError(f"{where} has no series; raise its share of split or add series")
    if len(short):
        stretch = int(short[0])
        owner = series.unique_ids[int(np.searchsorted(series.bounds, starts[stretch], side="right")) - 1]
        raise TooShortError(
            f"{len(short)} of {len(starts)} series are too short: '{owner}' has {ends[stretch] - starts[stretch]} rows "
            f"in {where}, input_size + horizon needs {length}; add rows, lower input_size, or change split"
        )
    owners = np.searchsorted(series.bounds, starts, side="right") - 1
    first, counts = starts.astype(np.int64), counts.astype(np.int64)
    windows = Windows.over(series, first, counts, owners, input_size=input_size, horizon=horizon, step_size=step_size)
    observed = drop_unobserved(windows)
    if not len(observed):
        raise TooShortError(
            f"{where} has no window with an observed value among its inputs and among its targets; add observed rows, "
            "or change split"
        )
    return observed
