"""Bars for tests: a seeded random walk on an exchange's sessions, with dividends and splits as Yahoo returns them."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from forecaster.data.bars import COLUMNS, SESSION, Bars, Origin
from forecaster.data.calendars import get_calendar

ORIGIN = Origin("test", "USD", "NYQ", "America/New_York", "2026-01-01T00:00:00+00:00", "2024-01-02")


@dataclass
class Company:
    """The events of a share, in unadjusted prices; `bars` returns a source's view on a day."""

    symbol: str = "ABC"
    first: str = "2024-01-02"
    last: str = "2024-12-31"
    seed: int = 1
    dividends: dict[str, float] = field(default_factory=dict)
    splits: dict[str, float] = field(default_factory=dict)

    def bars(self, first: str | None = None, last: str | None = None) -> Bars:
        """Return bars from `first` to `last`, adjusted for every event up to `last`."""
        days = get_calendar("XNYS").sessions(np.datetime64(self.first), np.datetime64(self.last))
        random = np.random.default_rng(self.seed)
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, len(days))))
        spread = close * random.uniform(0.001, 0.01, len(days))
        columns = {"open": close - spread / 2, "high": close + spread, "low": close - spread, "close": close}
        frame = pd.DataFrame(columns, index=pd.DatetimeIndex(days.astype("M8[ns]"), name=SESSION))
        frame["volume"] = random.integers(1_000, 9_000, len(days)).astype(float)
        frame["dividend"], frame["split"] = 0.0, 0.0
        until = pd.Timestamp(last or self.last)
        for day, ratio in self.splits.items():
            if pd.Timestamp(day) <= until:
                frame.loc[day, "split"] = ratio
        for day, amount in self.dividends.items():
            if pd.Timestamp(day) <= until:
                frame.loc[day, "dividend"] = amount
        frame = frame[:until]
        # Yahoo adjusts all prices and dividends for the latest split
        later = frame["split"].where(frame["split"] > 0, 1.0)[::-1].cumprod()[::-1].shift(-1, fill_value=1.0)
        total = float(frame["split"].where(frame["split"] > 0, 1.0).to_numpy().prod())
        for name in ("open", "high", "low", "close", "dividend"):
            frame[name] = frame[name] / total
        frame["volume"] = frame["volume"] * later
        factor = (
            (1 - (frame["dividend"] / frame["close"].shift(1)).fillna(0))[::-1]
            .cumprod()[::-1]
            .shift(-1, fill_value=1.0)
        )
        frame["adj_close"] = frame["close"] * factor
        return Bars(self.symbol, frame[list(COLUMNS)][first:until], ORIGIN)
