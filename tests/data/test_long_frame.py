"""Validation of long frames: arrays from valid frames, and errors that name the row and the column."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from forecaster.data.long_frame import check_long_frame
from forecaster.domain.errors import DataError, SeriesError, TooShortError


def frame(length: int = 6, names: tuple[str, ...] = ("a", "b"), freq: str = "D") -> pd.DataFrame:
    times = pd.date_range("2026-01-01", periods=length, freq=freq)
    parts = [
        pd.DataFrame({"unique_id": name, "ds": times, "y": np.arange(length) + 10.0 * number})
        for number, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


def test_check_long_frame_groups_interleaved_series_without_modifying_the_frame() -> None:
    mixed = frame().sort_values(["ds", "unique_id"], ascending=[True, False])
    before = mixed.copy(deep=True)
    series = check_long_frame(mixed)
    assert series.unique_ids == ("b", "a")
    np.testing.assert_array_equal(series.values[:, 0], [10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5])
    assert series.bounds.tolist() == [0, 6, 12]
    assert series.freq == "D"
    pd.testing.assert_frame_equal(mixed, before)


def _set(row: int, column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(good: pd.DataFrame) -> pd.DataFrame:
        good.loc[row, column] = value  # type: ignore[call-overload]
        return good

    return change


BAD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "missing columns": (
        lambda good: good.rename(columns={"ds": "date", "y": "close"}),
        r"missing columns \['ds', 'y'\]",
    ),
    "no rows": (lambda good: good.iloc[:0], "no rows"),
    "text in y": (lambda good: good.assign(y=good["y"].astype(str)), "column y holds .*, not numbers"),
    "truth values in y": (lambda good: good.assign(y=good["y"] > 3), "column y holds bool"),
    "text in ds": (lambda good: good.assign(ds=good["ds"].astype(str)), "column ds holds .*, not timestamps"),
    "NaN": (_set(7, "y", np.nan), "row 7: y is not a finite number"),
    "infinity": (_set(7, "y", np.inf), "row 7: y is not a finite number"),
    "huge": (_set(7, "y", -1e200), r"row 7: y is beyond 1e\+150"),
    "missing time": (_set(3, "ds", pd.NaT), "row 3: ds is missing"),
    "missing name": (_set(3, "unique_id", None), "row 3: unique_id is missing"),
    "repeated time": (_set(9, "ds", pd.Timestamp("2026-01-03")), "row 9: ds .* of series 'b' repeats the previous"),
    "unsorted times": (lambda good: good.iloc[[0, 2, 1, 3, 4, 5]], "row 1: ds .* of series 'a' is earlier than"),
    "missing row": (lambda good: good.drop(index=[8]), "series 'b', row 9: .* is not one step of D .*as in series 'a'"),
    "mixed frequencies": (
        lambda good: pd.concat([good, frame(names=("c",), freq="h")], ignore_index=True),
        "series 'c', row 13: .* is not one step of D",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_error_names_the_row_and_the_column(change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        check_long_frame(change(frame()), where="prices.csv")
    assert "prices.csv" in str(error.value)


def test_one_series_too_short_among_many_is_named_with_what_it_lacks() -> None:
    good = pd.concat([frame(12, ("a", "b")), frame(5, ("short",))], ignore_index=True)
    with pytest.raises(TooShortError, match="1 of 3 series are too short: 'short' has 5 rows, needs 10"):
        check_long_frame(good, min_length=10)


def test_configured_frequency_is_enforced() -> None:
    with pytest.raises(SeriesError, match=r"not one step of h \(as set\)"):
        check_long_frame(frame(), freq="h")


@pytest.mark.parametrize(("freq", "length"), [("D", 10), ("h", 72)])
def test_series_across_a_clock_change_is_regular(freq: str, length: int) -> None:
    times = pd.date_range("2026-03-27", periods=length, freq=freq, tz="Europe/Berlin")
    series = check_long_frame(pd.DataFrame({"unique_id": "a", "ds": times, "y": np.arange(length, dtype=float)}))
    assert series.freq == freq


def test_missing_hour_at_a_clock_change_is_reported() -> None:
    times = pd.date_range("2026-03-28 20:00", periods=12, freq="h", tz="Europe/Berlin").delete(7)
    with pytest.raises(SeriesError, match="row 7"):
        check_long_frame(pd.DataFrame({"unique_id": "a", "ds": times, "y": np.zeros(11)}))
