"""Rolling forecast origins: the cutoffs of a backtest, and the rows known at each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows, are_observed
from forecaster.domain.errors import TooShortError
from forecaster.domain.series import Series, Times


@dataclass(frozen=True)
class Origins:
    """The windows to forecast, ordered by cutoff.

    Args:
        windows: one window per cutoff and series.
        cutoffs: the cutoffs, increasing, `(n_cutoffs,)`.
        numbers: the position of each window's cutoff in `cutoffs`, increasing, `(n,)`.
    """

    windows: Windows
    cutoffs: Times
    numbers: NDArray[np.int64]

    def blocks(self, size: int | None) -> Iterator[tuple[range, NDArray[np.int64]]]:
        """Yield the positions of `size` successive cutoffs (None: of all), and the positions of their windows."""
        count = len(self.cutoffs)
        for begin in range(0, count, size or count):
            cutoffs = range(begin, min(begin + (size or count), count))
            yield cutoffs, np.arange(*np.searchsorted(self.numbers, [cutoffs.start, cutoffs.stop]))


def roll(series: Series, input_size: int, horizon: int, n_windows: int, step_size: int) -> Origins:
    """Return the last `n_windows` possible origins, `step_size` possible cutoffs apart.

    A cutoff is possible if some series has `input_size` rows up to it and `horizon` rows after it.

    Raises:
        TooShortError: there are too few possible cutoffs.
    """
    possible = cutoffs_of(series, input_size, horizon)
    needed = step_size * (n_windows - 1) + 1
    if needed > len(possible):
        raise TooShortError(
            f"backtest: {n_windows} windows of {input_size} and {horizon} rows, {step_size} apart, need {needed} "
            f"cutoffs, but the data have {len(possible)}; lower n_windows or step_size"
        )
    cutoffs = possible[::-step_size][:n_windows][::-1]
    starts, numbers, owners = [], [], []
    for owner, (_, within) in enumerate(series):
        own = series.timestamps[within]
        found = np.searchsorted(own, cutoffs)
        fits = (found >= input_size - 1) & (found + horizon < len(own))
        fits[fits] = own[found[fits]] == cutoffs[fits]
        starts.append(within.start + found[fits] - input_size + 1)
        numbers.append(np.flatnonzero(fits))
        owners.append(np.full(int(fits.sum()), owner))
    order = np.argsort(np.concatenate(numbers), kind="stable")
    first = np.concatenate(starts)[order].astype(np.int64)
    windows = Windows.over(
        series,
        first,
        np.ones(len(first), dtype=np.int64),
        np.concatenate(owners)[order].astype(np.int64),
        input_size=input_size,
        horizon=horizon,
    )
    is_kept = np.flatnonzero(are_observed(windows))
    if not len(is_kept):
        raise TooShortError("backtest: no window has an observed value among its inputs and its targets; add rows")
    # a refit for cutoffs without a window would have nothing to forecast
    kept, positions = np.unique(np.concatenate(numbers)[order][is_kept], return_inverse=True)
    return Origins(windows.choose(is_kept), cutoffs[kept], positions)


def cutoffs_of(series: Series, input_size: int, horizon: int) -> Times:
    """Return the possible cutoffs of any series, increasing; some series may end long before others."""
    possible = [
        series.timestamps[rows][input_size - 1 : max(0, rows.stop - rows.start - horizon)] for _, rows in series
    ]
    return np.unique(np.concatenate(possible))


def known_at(series: Series, cutoff: np.datetime64, least: int) -> Series:
    """Return the rows up to `cutoff` of all series that have at least `least` rows by then.

    Raises:
        TooShortError: no series has that many.
    """
    ends = [
        within.start + int(np.searchsorted(series.timestamps[within], cutoff, side="right")) for _, within in series
    ]
    kept = [owner for owner, end in enumerate(ends) if end - series.bounds[owner] >= least]
    if not kept:
        raise TooShortError(f"backtest: no series has {least} rows up to {cutoff}; lower n_windows, or add rows")
    rows = np.concatenate([np.arange(series.bounds[owner], ends[owner]) for owner in kept])
    lengths = [ends[owner] - int(series.bounds[owner]) for owner in kept]
    return replace(
        series,
        unique_ids=tuple(series.unique_ids[owner] for owner in kept),
        values=series.values[rows],
        timestamps=series.timestamps[rows],
        bounds=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        known=None if series.known is None else series.known[rows],
        static=None if series.static is None else series.static[kept],
    )
