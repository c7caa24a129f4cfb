"""Bars from your own price files, with common column names recognized."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from forecaster.data.bars import (
    ADJUSTED_CLOSE,
    CLOSE,
    COLUMNS,
    DIVIDEND,
    PRICES,
    SESSION,
    SPLIT,
    VOLUME,
    Bars,
    Origin,
    adjustment_of,
)
from forecaster.data.calendars import CalendarChoice, calendar_for
from forecaster.data.quality import rounding_of_adjustment
from forecaster.data.sources.files import Columns, FilesSource, plain_names
from forecaster.domain.errors import FileFormatError, NoData, UnknownSymbol
from forecaster.domain.series import DS

# our columns by normalized header names
_NAMES = {
    "open": PRICES[0], "high": PRICES[1], "low": PRICES[2], "close": CLOSE, "volume": VOLUME, "dividends": DIVIDEND,
    "dividend": DIVIDEND, "stock splits": SPLIT, "split": SPLIT, "adj close": ADJUSTED_CLOSE,
    "adjusted": ADJUSTED_CLOSE,
}  # fmt: skip
_DATES = ("date", DS, SESSION)
# missing values in files, in lower case
_BLANK_VALUES = frozenset({"", "-", ".", "n/a", "na", "nan", "none", "null"})
# minimum implied dividend, as a share of the close, on top of rounding errors
_MIN_SHARE = 1e-6


@dataclass(frozen=True)
class PriceFiles:
    """A source of bars from price files, one per symbol.

    Args:
        files: by symbol, a CSV (also gzipped) or Parquet file with rows in any order. Date, open, high, low and close
            are required; volume, dividends, splits and adjusted close are optional.
        calendar: the exchange's market identifier code, for all symbols or by symbol.
        currency: the currency of the prices.
        known_missing: by symbol, sessions declared as missing in the file; their rows may be incomplete.
    """

    files: Mapping[str, Path]
    calendar: CalendarChoice
    currency: str
    known_missing: Mapping[str, tuple[date, ...]] = field(default_factory=dict)
    name: str = "files"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, inclusive.

        Prices must be adjusted for splits. Missing volumes and splits become 0. Missing dividends are inferred from
        the adjusted close, or become 0. Rows without any price are dropped.

        Raises:
            UnknownSymbol: no file is configured for the symbol.
            FileFormatError: the file cannot be read, lacks a column, or a row lacks some of its prices.
            CalendarError: the calendar is unknown.
            NoData: the file has no rows in the range.
        """
        if symbol not in self.files:
            raise UnknownSymbol(symbol, f"no file is configured for it; choose from {sorted(self.files)}")
        declared = self.known_missing.get(symbol, ())
        frame = _read(self.files[symbol], declared)
        days = frame.index.to_numpy().astype("M8[D]")
        frame = frame[(days >= first) & (days <= last)]
        if frame.empty:
            raise NoData(symbol, f"{self.files[symbol]} has no rows from {first} to {last}; request other days")
        calendar = calendar_for(symbol, "unknown", self.calendar)
        origin = Origin(
            self.name,
            self.currency,
            calendar.name,
            calendar.zone,
            datetime.now(UTC).isoformat(timespec="seconds"),
            known_missing=tuple(str(day) for day in declared),
        )
        return Bars(symbol, frame, origin)


def _read(path: Path, known_missing: Sequence[date]) -> pd.DataFrame:
    reader = FilesSource(path=path)
    raw = reader.table()
    header = plain_names(path, raw.columns, {*_DATES, *_NAMES})
    date = next((header[name] for name in _DATES if name in header), None)
    found = {column: header[name] for name, column in _NAMES.items() if name in header}
    missing = [name for name in PRICES if name not in found]
    if date is None or missing:
        missing = [*([] if date else ["date"]), *missing]
        raise FileFormatError(f"{path}: missing columns {missing}; found {list(raw.columns)}; add or rename them")
    reader = reader.model_copy(update={"columns": Columns(ds=date, y=found[CLOSE])})
    table = reader.long_frame(_with_prices(raw, date, found, known_missing), tuple(found.values()))
    frame = pd.DataFrame({column: table[name].to_numpy(np.float64) for column, name in found.items()})
    frame.index = pd.DatetimeIndex(table[DS].dt.tz_localize(None).to_numpy(), name=SESSION).normalize()
    # files may be sorted either way; a quality rule reports repeated dates
    return _complete(frame.sort_index(kind="stable"))


def _with_prices(raw: pd.DataFrame, date: str, found: Mapping[str, str], known_missing: Sequence[date]) -> pd.DataFrame:
    """Drop rows without any price, and incomplete rows of sessions declared as missing.

    Args:
        raw: the file's rows.
        date: the name of the date column.
        found: the file's column names by our column names.
        known_missing: the sessions declared as missing.
    """
    columns = raw[list(found.values())]
    is_blank = columns.isna() | columns.map(lambda cell: str(cell).strip().lower() in _BLANK_VALUES)
    prices = is_blank[[found[name] for name in (*PRICES, ADJUSTED_CLOSE) if name in found]]
    is_empty = prices.all(axis=1)
    for name in (found[column] for column in (VOLUME, DIVIDEND, SPLIT) if column in found):
        is_empty &= is_blank[name] | pd.to_numeric(raw[name], errors="coerce").eq(0)
    days = pd.to_datetime(raw[date], errors="coerce", utc=True, format="mixed").dt.tz_localize(None).dt.normalize()
    is_declared = days.isin(pd.DatetimeIndex(list(known_missing))) & prices.any(axis=1)
    return raw[~(is_empty | is_declared)]


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    if DIVIDEND not in frame:
        frame[DIVIDEND] = _implied_dividends(frame) if ADJUSTED_CLOSE in frame else 0.0
    for name, value in ((VOLUME, 0.0), (SPLIT, 0.0), (ADJUSTED_CLOSE, frame[CLOSE] * adjustment_of(frame))):
        if name not in frame:
            frame[name] = value
    return frame[list(COLUMNS)]


def _implied_dividends(frame: pd.DataFrame) -> "pd.Series[float]":
    """Return the dividends implied by the adjusted close: `previous close · (1 - ratio of adjustments)`."""
    factor = frame[ADJUSTED_CLOSE] / frame[CLOSE]
    share = 1 - factor.shift(1) / factor
    rounding = pd.Series(rounding_of_adjustment(frame), frame.index)
    return (frame[CLOSE].shift(1) * share).where(share > _MIN_SHARE + rounding + rounding.shift(1), 0.0)
