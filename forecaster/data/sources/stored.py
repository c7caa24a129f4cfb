"""Series from the bar store: adjusted closes of stored symbols, with features of their bars."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from forecaster.data.bar_features import is_price
from forecaster.data.bars import Bars
from forecaster.data.calendars import Calendar, calendar_for
from forecaster.data.jumps import find_hold
from forecaster.data.quality import SOFT, check
from forecaster.data.store import BarStore
from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError, QualityError, UnknownSymbol
from forecaster.domain.series import Y


class StoredSource(Config):
    """Adjusted closes from the bar store.

    Args:
        symbols: the symbols, a series each.
        folder: the folder of the store.
        max_age_sessions: the maximum number of completed sessions that a symbol may lack; null for no limit.
        max_flagged: by soft quality rule, the maximum number of days that may break it; other rules have no limit. The
            defaults are five times what a decade of real prices of a large share has, which is 0 for some rules.
        calendar: the exchange's market identifier code, for all symbols or by symbol; needed if the source's name of
            the exchange is unknown.
    """

    source: Literal["store"] = "store"
    symbols: tuple[str, ...] = Field(min_length=1)
    folder: Path = Path("mlruns/bars")
    max_age_sessions: int | None = Field(5, ge=0, le=1_000_000)
    max_flagged: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]] = Field(
        {
            "missing_session": 0, "spike": 0, "dividend_not_adjusted": 0, "inconsistent": 10, "outlier": 10, "stale": 10
        }
    )  # fmt: skip
    calendar: str | dict[str, str] | None = None

    @field_validator("max_flagged")
    @classmethod
    def _rules_are_known(cls, limits: dict[str, int]) -> dict[str, int]:
        unknown = sorted(limits.keys() - SOFT.keys())
        if unknown:
            raise ValueError(f"{unknown} are not soft rules; choose from {', '.join(SOFT)}")
        return limits

    @property
    def location(self) -> str:
        """Return the store's folder."""
        return str(self.folder)

    def adjusted(self, exogenous: Sequence[str] = ()) -> tuple[str, ...]:
        """Return those of `y` and the bar features `exogenous` that leak later dividends.

        Raises:
            ConfigError: a bar feature is unknown.
        """
        return (Y, *(name for name in exogenous if is_price(name)))

    def load(self, exogenous: Sequence[str] = (), stat_exog: Sequence[str] = ()) -> pd.DataFrame:
        """Return the adjusted closes as a long frame.

        Args:
            exogenous: bar features to add as columns.
            stat_exog: refused, because the store has nothing of the kind.

        Raises:
            ConfigError: a bar feature is unknown, or `stat_exog` are requested.
            UnknownSymbol: a symbol is not stored.
            Unconfirmed: a symbol has an unconfirmed jump.
            QualityError: a symbol is stale, breaks a hard rule, or breaks a soft rule on too many days.
        """
        if stat_exog:
            raise ConfigError(f"stat_exog: the bar store has no columns {list(stat_exog)}; remove them, or use a file")
        return pd.concat([self._load(symbol, exogenous) for symbol in self.symbols], ignore_index=True)

    def _load(self, symbol: str, exogenous: Sequence[str]) -> pd.DataFrame:
        bars = BarStore(self.folder).read(symbol)
        if bars is None:
            raise UnknownSymbol(symbol, f"is not in {self.folder}; run pipelines.fetch for it")
        # earlier releases stored bars without looking for jumps
        hold = bars.held or find_hold(bars)
        if hold:
            raise hold.error_for(symbol)
        calendar = calendar_for(symbol, bars.origin.exchange, self.calendar)
        self._check_age(bars, calendar)
        self._check_quality(bars, calendar)
        return bars.long_frame(exogenous)

    def _check_quality(self, bars: Bars, calendar: Calendar) -> None:
        for issue in check(bars, calendar.sessions(bars.sessions[0], bars.sessions[-1])).issues:
            if issue.is_hard:
                raise QualityError(bars.symbol, f"{issue}; fetch it again, or use another source")
            limit = self.max_flagged.get(issue.rule, len(issue.days))
            if len(issue.days) > limit:
                raise QualityError(
                    bars.symbol,
                    f"{issue}, more days than data.max_flagged allows ({limit}); fetch it again, or raise the limit",
                )

    def _check_age(self, bars: Bars, calendar: Calendar) -> None:
        if self.max_age_sessions is None:
            return
        last = bars.sessions[-1]
        missing = calendar.sessions(last + np.timedelta64(1, "D"), calendar.last_completed(datetime.now(UTC)))
        if len(missing) > self.max_age_sessions:
            raise QualityError(
                bars.symbol,
                f"ends on {last} and lacks {len(missing)} sessions up to {missing[-1]}, more than max_age_sessions "
                f"({self.max_age_sessions}); run pipelines.fetch, or raise data.max_age_sessions",
            )
