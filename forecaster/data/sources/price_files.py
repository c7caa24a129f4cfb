"""Bars from price files, whatever their columns are called: for prices that one has, instead of Yahoo's."""

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

# as headers spell them, in small letters and without a prefix such as `AAPL.`
_NAMES = {
    "open": PRICES[0], "high": PRICES[1], "low": PRICES[2], "close": CLOSE, "volume": VOLUME, "dividends": DIVIDEND,
    "dividend": DIVIDEND, "stock splits": SPLIT, "split": SPLIT, "adj close": ADJUSTED_CLOSE,
    "adjusted": ADJUSTED_CLOSE,
}  # fmt: skip
_DATES = ("date", DS, SESSION)
# how files spell that there is no number, in small letters
_BLANK = frozenset({"", "-", ".", "n/a", "na", "nan", "none", "null"})
# the least share of a close that is taken for a dividend, beside what the rounding of the file's prices explains
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class PriceFiles:
    """Price files, one per symbol.

    Args:
        files: the file of each symbol, CSV (also gzipped) or Parquet, in any order of rows; columns for the date, open,
            high, low and close, and where there are any volume, dividends, splits and an adjusted close.
        calendar: the exchange's market identifier code, or each symbol's.
        currency: of the prices.
        known_missing: sessions of each symbol that its file is known not to have; their rows may be incomplete.
    """

    files: Mapping[str, Path]
    calendar: CalendarChoice
    currency: str
    known_missing: Mapping[str, tuple[date, ...]] = field(default_factory=dict)
    name: str = "files"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included.

        Prices must be adjusted for splits. What a file does not tell is 0: volume, splits, and dividends unless an
        adjusted close shows them. A row without any price is no bar.

        Raises:
            UnknownSymbol: no file is given for it.
            FileFormatError: the file cannot be read, lacks a column, or a row lacks some of its prices.
            CalendarError: there is no calendar of that name.
            NoData: it has no rows in the range.
        """
        if symbol not in self.files:
            raise UnknownSymbol(symbol, f"no file is given for it; there are files of {sorted(self.files)}")
        declared = self.known_missing.get(symbol, ())
        frame = _read(self.files[symbol], declared)
        days = frame.index.to_numpy().astype("M8[D]")
        frame = frame[(days >= first) & (days <= last)]
        if frame.empty:
            raise NoData(symbol, f"{self.files[symbol]} has no rows from {first} to {last}; ask for other days")
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
        lacking = [*([] if date else ["date"]), *missing]
        raise FileFormatError(f"{path}: no columns {lacking}; it has {list(raw.columns)}; name them in its header")
    reader = reader.model_copy(update={"columns": Columns(ds=date, y=found[CLOSE])})
    table = reader.long_frame(_with_prices(raw, date, found, known_missing), tuple(found.values()))
    frame = pd.DataFrame({column: table[name].to_numpy(np.float64) for column, name in found.items()})
    frame.index = pd.DatetimeIndex(table[DS].dt.tz_localize(None).to_numpy(), name=SESSION).normalize()
    # newest first is as good as oldest first; a repeated date is left for the quality rules
    return _complete(frame.sort_index(kind="stable"))


def _with_prices(raw: pd.DataFrame, date: str, found: Mapping[str, str], known_missing: Sequence[date]) -> pd.DataFrame:
    """Return the rows of a file but for those without any price, and incomplete ones of days that are declared missing.

    Args:
        raw: the file's rows.
        date: the name of the column of dates.
        found: the file's name of each of our columns.
        known_missing: the declared days.
    """
    columns = raw[list(found.values())]
    is_blank = columns.isna() | columns.map(lambda cell: str(cell).strip().lower() in _BLANK)
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
    """Return the dividends that an adjusted close shows: `previous close · (1 - ratio of the adjustments)`."""
    factor = frame[ADJUSTED_CLOSE] / frame[CLOSE]
    share = 1 - factor.shift(1) / factor
    rounding = pd.Series(rounding_of_adjustment(frame), frame.index)
    return (frame[CLOSE].shift(1) * share).where(share > _LEAST_SHARE + rounding + rounding.shift(1), 0.0)
