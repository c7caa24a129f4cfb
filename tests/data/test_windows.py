"""Windows: contents, target times, borders of parts and series, and memory."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data.windows import PARTS, SplitConfig, Windows, cut_windows, spans_of, split_windows
from forecaster.domain.errors import TooShortError
from forecaster.domain.frequency import parse
from forecaster.domain.series import Series

FREQUENCIES = ["h", "15min", "D", "B", "MS"]


@st.composite
def series(draw: st.DrawFn, least: int = 12) -> Series:
    """Draw series whose values are their row numbers, so that a value identifies its row."""
    lengths = draw(st.lists(st.integers(least, 40), min_size=1, max_size=4))
    freq = draw(st.sampled_from(FREQUENCIES))
    times = [pd.date_range("2026-01-01", periods=length, freq=freq).to_numpy("M8[ns]") for length in lengths]
    rows = sum(lengths)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    names = tuple(f"s{number}" for number in range(len(lengths)))
    return Series(names, np.arange(rows, dtype=np.float64)[:, None], np.concatenate(times), bounds, freq)


def _all(windows: Windows) -> np.ndarray:
    return np.arange(len(windows))


@given(series(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_windows_match_their_definition(series: Series, input_size: int, horizon: int, step_size: int) -> None:
    windows = cut_windows(series, input_size, horizon, step_size)
    length = input_size + horizon
    expected = [
        list(range(start, start + length))
        for _, rows in series
        for start in range(
            rows.start + (rows.stop - rows.start - length) % step_size, rows.stop - length + 1, step_size
        )
    ]
    inputs, targets = windows.inputs(_all(windows)).target, windows.targets(_all(windows))
    np.testing.assert_array_equal(np.concatenate([inputs, targets], axis=1), expected)
    np.testing.assert_array_equal(windows.inputs().target, inputs)
    np.testing.assert_array_equal(windows.targets(), targets)
    # many-to-many: the targets of a step are the values right after it
    each = windows.targets_each_step(_all(windows))
    assert each.shape == (len(windows), input_size, horizon)
    np.testing.assert_array_equal(each, inputs[:, :, None] + np.arange(1, horizon + 1))
    np.testing.assert_array_equal(windows.targets_each_step(), each)


@given(series(), st.integers(1, 6), st.integers(1, 6))
def test_target_times_follow_the_last_input_time(series: Series, input_size: int, horizon: int) -> None:
    windows = cut_windows(series, input_size, horizon)
    times = windows.target_times(series.timestamps, _all(windows))
    last = windows.input_times(series.timestamps, _all(windows))[:, -1]
    frequency = parse(series.freq)
    np.testing.assert_array_equal(times, [frequency.after(time, horizon) for time in last])
    # the target times are the times of the targets' rows
    np.testing.assert_array_equal(times, series.timestamps[windows.targets(_all(windows)).astype(int)])


@given(series(least=32), st.sampled_from(["time", "series"]), st.integers(1, 3), st.integers(1, 2))
def test_no_window_crosses_two_parts_or_two_series(series: Series, by: str, input_size: int, horizon: int) -> None:
    split = SplitConfig(by=by, train=0.4, validation=0.2, calibration=0.2, test=0.2)
    if by == "series" and len(series) < 4:
        with pytest.raises(TooShortError, match="at least 4 series"):
            split_windows(series, split, input_size, horizon)
        return
    parts = split_windows(series, split, input_size, horizon)
    assert list(parts) == list(PARTS)
    seen: list[set[int]] = []
    for windows in parts.values():
        rows = np.concatenate([windows.inputs(_all(windows)).target, windows.targets(_all(windows))], axis=1).astype(
            int
        )
        owners = np.searchsorted(series.bounds, rows, side="right")
        assert (owners == owners[:, :1]).all()
        seen.append(set(rows.ravel().tolist()))
    assert all(not (rows & later) for number, rows in enumerate(seen) for later in seen[number + 1 :])
    if by == "time":
        # all times of a part, in any series, precede those of the next part
        times = [series.timestamps[sorted(part)] for part in seen]
        assert all(before.max() < after.min() for before, after in itertools.pairwise(times))
    if by == "series" or len(set(series.lengths)) == 1:
        assert set().union(*seen) == set(range(len(series.values)))


def _plain(lengths: list[int]) -> Series:
    rows = sum(lengths)
    times = np.concatenate([np.arange(length) for length in lengths]).astype("M8[s]")
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    names = tuple(f"s{number}" for number in range(len(lengths)))
    return Series(names, np.zeros((rows, 1)), times, bounds, "s")


def test_error_names_the_series_that_is_too_short() -> None:
    with pytest.raises(
        TooShortError, match=r"1 of 3 series are too short: 's1' has 5 rows in the whole series.*needs 10"
    ):
        cut_windows(_plain([20, 5, 20]), 8, 2)
    with pytest.raises(TooShortError, match="'s0' has 2 rows in the validation part"):
        split_windows(_plain([20]), SplitConfig(), 3, 1)


def test_late_series_is_in_the_parts_for_which_it_has_rows() -> None:
    long, late = np.arange(100).astype("M8[s]"), np.arange(75, 100).astype("M8[s]")
    values = np.arange(125.0)[:, None]
    series = Series(("long", "late"), values, np.concatenate([long, late]), np.array([0, 100, 125]), "s")
    parts = split_windows(series, SplitConfig(), 3, 1)
    assert {name: windows.first.tolist() for name, windows in parts.items()} == {
        "train": [0],
        "validation": [70, 100],
        "calibration": [80, 105],
        "test": [90, 115],
    }


def test_shares_of_fewer_parts_are_rescaled() -> None:
    parts = split_windows(_plain([90]), SplitConfig(), 3, 1, parts=PARTS[:3])
    assert {name: (int(windows.first[0]), len(windows)) for name, windows in parts.items()} == {
        "train": (0, 67),
        "validation": (70, 7),
        "calibration": (80, 7),
    }


def test_windows_of_a_single_series_are_views() -> None:
    windows = cut_windows(_plain([50]), 8, 2)
    for array in (windows.inputs().values, windows.targets(), windows.targets_each_step()):
        assert np.shares_memory(array, windows.values)


@pytest.mark.parametrize("n_series", [1, 1000])
def test_windows_of_ten_million_rows_use_little_memory(n_series: int) -> None:
    series = _plain([10_000_000 // n_series] * n_series)
    tracemalloc.start()
    try:
        parts = split_windows(series, SplitConfig(), 100, 10)
        for windows in parts.values():
            for begin in range(0, len(windows), len(windows) // 20):
                index = np.arange(begin, min(begin + 1024, len(windows)))
                windows.inputs(index)
                windows.targets(index)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 0.2 * series.values.nbytes


def test_span_of_a_series_reaches_from_its_first_window_to_its_last() -> None:
    times = np.tile(np.arange(10).astype("M8[h]"), 3)
    three = Series(("a", "b", "c"), np.zeros((30, 1)), times, np.array([0, 10, 20, 30]), "h")
    # series c has two stretches, between which no window is observed; b has none
    first, counts, owners = np.array([20, 0, 26]), np.array([2, 3, 1]), np.array([2, 0, 2])
    one = Windows.over(three, first, counts, owners, input_size=2, horizon=1, step_size=2)
    later = Windows.over(three, np.array([7]), np.array([1]), np.array([0]), input_size=2, horizon=1)
    owners, begins, ends = spans_of(one, later)
    assert owners.tolist() == [0, 2]
    assert begins.tolist() == [0, 20]
    assert ends.tolist() == [10, 29]
