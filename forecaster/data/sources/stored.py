"""Series from the bar store: adjusted closes of symbols that `pipelines.fetch` has stored."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from forecaster.data.bars import Bars
from forecaster.data.calendars import calendar_of, get_calendar
from forecaster.data.store import BarStore
from forecaster.domain.config import Config
from forecaster.domain.errors import QualityError, UnknownSymbol


class StoredSource(Config):
    """Adjusted closes from the bar store.

    Args:
        symbols: one series each.
        folder: the store's.
        max_age_sessions: a symbol that lacks more completed sessions than this is refused; null takes any.
        calendar: the exchange's market identifier code, where the source's name for it is not in the table.
    """

    source: Literal["store"] = "store"
    symbols: tuple[str, ...] = Field(min_length=1)
    folder: Path = Path("mlruns/bars")
    max_age_sessions: int | None = Field(5, ge=0)
    calendar: str | None = None

    def load(self) -> pd.DataFrame:
        """Return the adjusted closes as a long frame.

        Raises:
            UnknownSymbol: a symbol is not stored.
            QualityError: a symbol is stale.
        """
        return pd.concat([self._load(symbol) for symbol in self.symbols], ignore_index=True)

    def _load(self, symbol: str) -> pd.DataFrame:
        bars = BarStore(self.folder).read(symbol)
        if bars is None:
            raise UnknownSymbol(symbol, f"is not in {self.folder}; run pipelines.fetch for it")
        self._refuse_stale(bars)
        return bars.long_frame()

    def _refuse_stale(self, bars: Bars) -> None:
        if self.max_age_sessions is None:
            return
        calendar = get_calendar(self.calendar) if self.calendar else calendar_of(bars.origin.exchange)
        last = bars.sessions[-1]
        missing = calendar.sessions(last + np.timedelta64(1, "D"), calendar.last_completed(datetime.now(UTC)))
        if len(missing) > self.max_age_sessions:
            raise QualityError(
                bars.symbol,
                f"ends on {last} and lacks {len(missing)} sessions up to {missing[-1]}, more than max_age_sessions "
                f"({self.max_age_sessions}); run pipelines.fetch, or raise data.max_age_sessions",
            )
