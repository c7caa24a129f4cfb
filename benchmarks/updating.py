"""Time an update of the bar store without new bars: `python -m benchmarks.updating`.

The store holds ten years of 500 symbols. The source answers from memory, and its own time is subtracted.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.report import Row, report
from forecaster.data.bars import ADJUSTED_CLOSE, COLUMNS, PRICES, SESSION, VOLUME, Bars, Origin
from forecaster.data.calendars import get_calendar
from forecaster.data.store import BarStore
from forecaster.data.update import update

SYMBOLS, FIRST, LAST = 500, np.datetime64("2016-01-04"), np.datetime64("2025-12-31")
NOW = datetime.fromisoformat("2026-01-01T12:00:00+00:00")


class Memory:
    """A source in memory: a random walk for each symbol."""

    name = "memory"

    def __init__(self) -> None:
        self._days = get_calendar("XNYS").sessions(FIRST, LAST)

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the symbol's bars from `first` to `last`."""
        random = np.random.default_rng(int(symbol[1:]))
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, len(self._days))))
        frame = pd.DataFrame(0.0, pd.DatetimeIndex(self._days.astype("M8[ns]"), name=SESSION), list(COLUMNS))
        for name in (*PRICES, ADJUSTED_CLOSE):
            frame[name] = close
        frame[VOLUME] = 1000.0
        origin = Origin(self.name, "USD", "NYQ", "America/New_York", NOW.isoformat())
        return Bars(symbol, frame[pd.Timestamp(first) : pd.Timestamp(last)], origin)


def measure(folder: Path) -> Iterator[Row]:
    """Yield the time of the second update of all symbols, without the source's time."""
    store, source = BarStore(folder), Memory()
    symbols = [f"S{number}" for number in range(SYMBOLS)]
    for symbol in tqdm(symbols, desc="first fetch", unit="symbol"):
        update(store, source, symbol, FIRST, LAST, NOW)
    start = time.perf_counter()
    for symbol in tqdm(symbols, desc="update", unit="symbol"):
        update(store, source, symbol, FIRST, LAST, NOW)
    update_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for symbol in symbols:
        source.fetch(symbol, LAST - 14, LAST)
        source.fetch(symbol, FIRST, FIRST + 14)
    source_seconds = time.perf_counter() - start
    yield Row(f"update of {SYMBOLS} symbols, no new bars", update_seconds - source_seconds, 10.0, "s")


def main() -> int:
    """Run the benchmark."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.updating", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(list(measure(Path(folder))))


if __name__ == "__main__":
    sys.exit(main())
