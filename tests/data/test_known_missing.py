"""Sessions declared as missing in a source are not reported; other missing sessions are."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import COLUMNS
from forecaster.data.quality import check
from forecaster.data.sources.price_files import PriceFiles
from forecaster.data.sources.request import drop_blank_rows
from forecaster.data.sources.stored import StoredSource
from forecaster.data.store import BarStore
from forecaster.data.update import Updated, update
from forecaster.domain.errors import FileFormatError, QualityError
from tests.conftest import REAL_DATA, needs_real_data
from tests.data.prices import Company

FIRST, LAST, NOW = np.datetime64("2024-01-02"), np.datetime64("2024-12-31"), datetime(2025, 1, 2, tzinfo=UTC)
DAY, HOLIDAY = "2024-05-24", "2024-05-27"


def table() -> pd.DataFrame:
    """Return a year of prices as text, a row per session."""
    frame = Company().bars().frame[["open", "high", "low", "close", "volume"]].astype(str)
    return frame.reset_index(names="date").assign(date=lambda rows: rows["date"].dt.strftime("%Y-%m-%d"))


def _emptied(*names: str, blank: str = "") -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame["date"] == DAY, list(names)] = blank
        return frame

    return change


def store_of(folder: Path, frame: pd.DataFrame, *declared: str) -> tuple[BarStore, Updated]:
    frame.to_csv(folder / "a.csv", index=False)
    known = {"ABC": tuple(date.fromisoformat(day) for day in declared)}
    source = PriceFiles({"ABC": folder / "a.csv"}, "XNYS", "USD", known)
    store = BarStore(folder / "bars")
    return store, update(store, source, "ABC", FIRST, LAST, NOW)


BLANK = {
    "all, empty": _emptied("open", "high", "low", "close", "volume"),
    "all, null": _emptied("open", "high", "low", "close", "volume", blank="null"),
    "all, no volume": lambda frame: _emptied("volume", blank="0")(_emptied("open", "high", "low", "close")(frame)),
    "the row": lambda frame: frame[frame["date"] != DAY],
}


@pytest.mark.parametrize("change", BLANK.values(), ids=BLANK.keys())
def test_missing_session_is_flagged_until_declared(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    store, updated = store_of(tmp_path, change(table()))
    assert updated.issues == (f"missing_session: the exchange was open, but there is no bar (1: {DAY})",)
    read = StoredSource(symbols=("ABC",), folder=store.folder, max_age_sessions=None)
    with pytest.raises(QualityError, match="missing_session"):
        read.load()
    # the declaration is stored, so it applies to readers too
    store, updated = store_of(tmp_path, change(table()), DAY)
    assert updated.issues == ()
    assert len(read.load()) == 251
    # without the declaration the session is reported again
    assert store_of(tmp_path, change(table()))[1].issues != ()


def test_incomplete_row_is_refused_until_its_day_is_declared(tmp_path: Path) -> None:
    frame = _emptied("open", "high")(table())
    with pytest.raises(FileFormatError, match="line 102: column 'open' holds ''"):
        store_of(tmp_path, frame)
    with pytest.raises(FileFormatError, match="line 102: column 'open' holds ''"):
        store_of(tmp_path, frame, "2024-05-23")
    assert store_of(tmp_path, frame, DAY)[1].issues == ()


def test_blank_row_on_a_holiday_is_ignored(tmp_path: Path) -> None:
    frame = pd.concat([table(), pd.DataFrame([{"date": HOLIDAY, "volume": "0"}])]).fillna("")
    assert store_of(tmp_path, frame)[1].issues == ()


def test_declared_day_with_a_bar_is_kept(tmp_path: Path) -> None:
    _, updated = store_of(tmp_path, table(), DAY)
    assert (updated.bars, updated.issues) == (252, ())


def test_blank_row_with_an_event_is_kept_and_reported() -> None:
    bars = Company(dividends={DAY: 1.0}).bars()
    bars.frame.loc[DAY, [name for name in COLUMNS if name != "dividend"]] = np.nan
    kept = drop_blank_rows(bars.frame, [date.fromisoformat(DAY)])
    assert len(kept) == 252
    issues = check(replace(bars, frame=kept), bars.sessions).issues
    assert next(issue.rule for issue in issues if issue.is_hard) == "bad_price"


@needs_real_data
def test_real_file_with_a_bad_row_can_be_stored(tmp_path: Path) -> None:
    path = REAL_DATA / "stock" / "djia-KO_2006-01-01_to_2018-01-01.csv"
    first, last = np.datetime64("2006-01-01"), np.datetime64("2018-01-01")
    with pytest.raises(FileFormatError, match="line 2915: column 'Open' holds ''"):
        update(BarStore(tmp_path), PriceFiles({"KO": path}, "XNYS", "USD"), "KO", first, last, NOW)
    source = PriceFiles({"KO": path}, "XNYS", "USD", {"KO": (date(2017, 7, 31),)})
    issues = update(BarStore(tmp_path), source, "KO", first, last, NOW).issues
    assert not any(issue.startswith("missing_session") for issue in issues), issues
