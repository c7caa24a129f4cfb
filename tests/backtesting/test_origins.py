"""Rolling origins: each window ends at its cutoff, and only earlier rows are known at a cutoff."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.backtesting.origins import known_at, roll
from forecaster.domain.errors import TooShortError
from forecaster.domain.series import Series


def series(*spans: tuple[int, int]) -> Series:
    """Return series over spans of days; each value encodes its series and day."""
    times = np.concatenate([np.arange(first, last) for first, last in spans])
    owners = np.concatenate([np.full(last - first, number) for number, (first, last) in enumerate(spans)])
    bounds = np.cumsum([0, *(last - first for first, last in spans)])
    names = tuple(f"s{number}" for number in range(len(spans)))
    return Series(names, (1000.0 * owners + times)[:, None], times.astype("M8[D]"), bounds, "D", -times[:, None] * 1.0)


@given(
    n_windows=st.integers(1, 12), step_size=st.integers(1, 4), input_size=st.integers(2, 6), horizon=st.integers(1, 5)
)
def test_windows_end_at_their_cutoffs(n_windows: int, step_size: int, input_size: int, horizon: int) -> None:
    # a complete series, a late start, an early end, and a series that is too short for a window
    data = series((0, 70), (40, 70), (0, 50), (66, 70))
    origins = roll(data, input_size, horizon, n_windows, step_size)
    assert origins.cutoffs.tolist() == [
        np.datetime64(69 - horizon - step_size * back, "D").item() for back in range(n_windows)[::-1]
    ]
    assert (np.diff(origins.numbers) >= 0).all()
    inputs, targets = origins.windows.inputs(), origins.windows.targets()
    cutoffs = origins.cutoffs[origins.numbers].astype(float)
    owners = 1000.0 * origins.windows.owners
    np.testing.assert_array_equal(inputs.target[:, -1], owners + cutoffs)
    np.testing.assert_array_equal(targets, (owners + cutoffs)[:, None] + np.arange(1, horizon + 1))
    assert inputs.known is not None
    np.testing.assert_array_equal(inputs.known[:, -1, 0], -(cutoffs + horizon))
    # every series with enough rows has a window at each cutoff
    for owner, (first, last) in enumerate(((0, 70), (40, 70), (0, 50), (66, 70))):
        fits = [c for c in origins.cutoffs.astype(int) if c - input_size + 1 >= first and c + horizon < last]
        assert sorted(cutoffs[origins.windows.owners == owner]) == fits


def test_known_at_returns_only_rows_up_to_the_cutoff() -> None:
    known = known_at(series((0, 70), (40, 70), (0, 50), (60, 70)), np.datetime64(62, "D"), 5)
    assert known.unique_ids == ("s0", "s1", "s2")
    assert known.timestamps.max() == np.datetime64(62, "D")
    assert known.lengths.tolist() == [63, 23, 50]
    np.testing.assert_array_equal(known.values[known.rows(1), 0], 1000 + np.arange(40, 63))
    assert known.known is not None
    np.testing.assert_array_equal(known.known[:, 0], -known.timestamps.astype(float))
    with pytest.raises(TooShortError, match="no series has 80 rows up to 1970-03-04"):
        known_at(series((0, 70)), np.datetime64(62, "D"), 80)


def test_error_for_too_many_origins_says_how_many_rows_they_need() -> None:
    message = "12 windows of 20 and 5 rows, 5 apart, need 56 cutoffs, but the data have 46"
    with pytest.raises(TooShortError, match=message):
        roll(series((0, 70)), 20, 5, 12, 5)


def test_origins_include_series_that_end_after_the_longest() -> None:
    origins = roll(series((0, 70), (60, 100)), 5, 2, 20, 1)
    assert origins.cutoffs[-1] == np.datetime64(97, "D")
    assert set(origins.windows.owners.tolist()) == {1}
    # no cutoff lies in the gap, where no series can be forecast
    gap = roll(series((0, 70), (80, 100)), 5, 2, 20, 1)
    assert len(gap.windows) == len(gap.cutoffs) == 20
    assert gap.cutoffs[[0, 5, 6, 19]].astype(int).tolist() == [62, 67, 84, 97]
