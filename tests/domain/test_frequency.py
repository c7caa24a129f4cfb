"""Frequencies agree with pandas and find the irregular rows of a series."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain.errors import ConfigError, SeriesError
from forecaster.domain.frequency import infer, parse

NAMES = ["s", "30s", "min", "15min", "h", "6h", "D", "7D", "B", "MS", "ME", "3MS", "QS", "QE", "YS", "YE", "W"]
# the names for pandas, which anchors W, QS, QE, YS and YE otherwise
PANDAS = {"W": "7D", "QS": "3MS", "QE": "3ME", "YS": "12MS", "YE": "12ME"}


@given(name=st.sampled_from(NAMES), day=st.integers(0, 20_000), length=st.integers(3, 40))
def test_after_agrees_with_pandas_date_range(name: str, day: int, length: int) -> None:
    expected = pd.date_range(
        pd.Timestamp("1980-01-01") + pd.Timedelta(days=day), periods=length, freq=PANDAS.get(name, name)
    )
    frequency = parse(name)
    coming = frequency.after(expected.to_numpy()[0], length - 1)
    np.testing.assert_array_equal(coming, expected.to_numpy()[1:])
    assert len(frequency.breaks(expected.to_numpy())) == 0


@given(name=st.sampled_from(NAMES), day=st.integers(0, 20_000), length=st.integers(12, 40))
def test_inferred_frequency_continues_the_series(name: str, day: int, length: int) -> None:
    times = pd.date_range(
        pd.Timestamp("1980-01-01") + pd.Timedelta(days=day), periods=length, freq=PANDAS.get(name, name)
    ).to_numpy()
    found = infer(times[:-1], "series")
    np.testing.assert_array_equal(found.after(times[-2], 1), times[-1:])


@given(name=st.sampled_from(["h", "D", "7D", "MS"]), missing=st.integers(2, 17))
def test_breaks_finds_the_missing_row(name: str, missing: int) -> None:
    times = np.delete(pd.date_range("2024-01-01", periods=20, freq=name).to_numpy(), missing)
    assert parse(name).breaks(times).tolist() == [missing]
    with pytest.raises(SeriesError, match="mixed frequencies"):
        infer(times, "series")


def test_weekday_frequency_accepts_holidays_and_rejects_long_gaps_and_sundays() -> None:
    days = np.array(["2024-12-24", "2024-12-26", "2024-12-27", "2025-02-03", "2025-02-09"], dtype="M8[ns]")
    assert parse("B").breaks(days).tolist() == [3, 4]
    hours = np.array(["2024-12-24T09", "2024-12-24T10", "2024-12-26T09"], dtype="M8[h]").astype("M8[ns]")
    assert parse("B").breaks(hours).tolist() == [1]


@pytest.mark.parametrize("name", ["", "0D", "2B", "fortnight", "-1h", "1.5h", "d", "15 min"])
def test_parse_rejects_invalid_names(name: str) -> None:
    with pytest.raises(ConfigError, match="freq"):
        parse(name)


def test_infer_needs_three_timestamps() -> None:
    with pytest.raises(SeriesError, match="set freq"):
        infer(np.array(["2024-01-01", "2024-01-02"], dtype="M8[ns]"), "series")
