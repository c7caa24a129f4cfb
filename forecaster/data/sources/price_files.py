"""Bars from price files, whatever their columns are called: for prices that one has, instead of Yahoo's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
from forecaster.data.calendars import get_calendar
from forecaster.data.quality import rounding_of_adjustment
from forecaster.data.sources.files import Columns, FilesSource
from forecaster.domain.errors import FileFormatError, NoData, UnknownSymbol
from forecaster.domain.series import DS

# as headers spell them, in small letters and without a prefix such as `AAPL.`
_NAMES = {
    "open": PRICES[0], "high": PRICES[1], "low": PRICES[2], "close": CLOSE, "volume": VOLUME, "dividends": DIVIDEND,
    "dividend": DIVIDEND, "stock splits": SPLIT, "split": SPLIT, "adj close": ADJUSTED_CLOSE,
    "adj_close": ADJUSTED_CLOSE, "adjusted": ADJUSTED_CLOSE,
}  # fmt: skip
_DATES = ("date", DS, SESSION)
# the least share of a close that is taken for a dividend, beside what the rounding of the file's prices explains
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class PriceFiles:
    """Price files, one per symbol.

    Args:
        files: the file of each symbol, CSV (also gzipped) or Parquet, in any order of rows; columns for the date, open,
            high, low and close, and where there are any volume, dividends, splits and an adjusted close.
        calendar: the exchange's market identifier code.
        currency: of the prices.
    """

    files: Mapping[str, Path]
    calendar: str
    currency: str
    name: str = "files"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included.

        Prices must be adjusted for splits. What a file does not tell is 0: volume, splits, and dividends unless an
        adjusted close shows them.

        Raises:
            UnknownSymbol: no file is given for it.
            FileFormatError: the file cannot be read, or lacks a column.
            NoData: it has no rows in the range.
        """
        if symbol not in self.files:
            raise UnknownSymbol(symbol, f"no file is given for it; there are files of {sorted(self.files)}")
        frame = _read(self.files[symbol])
        days = frame.index.to_numpy().astype("M8[D]")
        frame = frame[(days >= first) & (days <= last)]
        if frame.empty:
            raise NoData(symbol, f"{self.files[symbol]} has no rows from {first} to {last}; ask for other days")
        zone = get_calendar(self.calendar).zone
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        return Bars(symbol, frame, Origin(self.name, self.currency, self.calendar, zone, fetched_at))


def _read(path: Path) -> pd.DataFrame:
    reader = FilesSource(path=path)
    header = {str(name).lower().rpartition(".")[2]: str(name) for name in reader.header()}
    date = next((header[name] for name in _DATES if name in header), None)
    found = {column: header[name] for name, column in _NAMES.items() if name in header}
    missing = [name for name in PRICES if name not in found]
    if date is None or missing:
        lacking = [*([] if date else ["date"]), *missing]
        raise FileFormatError(f"{path}: no columns {lacking}; it has {list(header.values())}; name them in its header")
    table = reader.model_copy(update={"columns": Columns(ds=date, y=found[CLOSE])}).load(tuple(found.values()))
    frame = pd.DataFrame({column: table[name].to_numpy(np.float64) for column, name in found.items()})
    frame.index = pd.DatetimeIndex(table[DS].dt.tz_localize(None).to_numpy(), name=SESSION).normalize()
    # newest first is as good as oldest first; a repeated date is left for the quality rules
    return _complete(frame.sort_index(kind="stable"))


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
