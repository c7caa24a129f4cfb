"""What sources that are asked over a network share: when to ask again, and what an empty answer means."""

import random
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, DIVIDEND, PRICES, SPLIT, VOLUME, Bars
from forecaster.data.calendars import Calendar, calendar_of
from forecaster.data.session import MarketSession, RetryAfterTooLong
from forecaster.domain.errors import (
    CalendarError,
    MarketDataError,
    NoData,
    RateLimited,
    SourceUnavailable,
    SourceUnreachable,
    UnknownSymbol,
)

# `BRK-B`, `^GSPC`, `EURUSD=X`, `M&M.NS`, `005930.KS`: all else would be read as a part of the URL
_SYMBOL = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9.^=&_-]{1,40}")
SPELLING = "write letters, digits and . - ^ = & _, at most 40"


def is_symbol(symbol: str) -> bool:
    """Say whether symbols are spelled so, and nothing of it would change the URL that it becomes a part of."""
    return _SYMBOL.fullmatch(symbol) is not None


def check_symbol(symbol: str) -> None:
    """Raise UnknownSymbol where symbols are not spelled so."""
    if not is_symbol(symbol):
        raise UnknownSymbol(repr(symbol), "is no symbol: " + SPELLING)


def fetch_with_retries(session: MarketSession, once: Callable[[], Bars], tries: int, backoff_seconds: float) -> Bars:
    """Return what `once` does, asked again where that can help, never after a rate limit.

    Args:
        session: what `once` asks with.
        once: asks.
        tries: how often at most.
        backoff_seconds: the longest wait before the second try; it doubles.

    Raises:
        SourceUnreachable: the source answers nothing, whatever it is asked.
        MarketDataError: as `once` raises it.
    """
    session.begin()
    for number in range(tries):
        try:
            return once()
        except MarketDataError as error:
            if isinstance(error, RateLimited) or not error.can_retry:
                raise
            if number == tries - 1 or session.is_given_up:
                if isinstance(error, SourceUnavailable) and not session.is_there():
                    raise SourceUnreachable(error.symbol, error.message) from error
                raise
            # full jitter, so that many fetchers do not come back together
            time.sleep(random.uniform(0, backoff_seconds * 2**number))  # noqa: S311
    raise AssertionError("tries is at least 1")


def rate_limit_error(symbol: str, who: str, asked: RetryAfterTooLong) -> RateLimited:
    """Return the error of a source that asks to wait for longer than a batch should."""
    at = datetime.now(UTC) + timedelta(seconds=asked.seconds)
    return RateLimited(
        symbol,
        f"{who} asks to wait {asked.seconds:.0f} s (status {asked.status}); run again after {at:%Y-%m-%d %H:%M:%S} UTC",
    )


def drop_blank_rows(frame: pd.DataFrame, known_missing: Sequence[date]) -> pd.DataFrame:
    """Return bars without rows that hold nothing, as sources show days without trading.

    Args:
        frame: bars, as `Bars.frame` has them.
        known_missing: days whose rows go where any price is missing.
    """
    is_missing = frame[[*PRICES, ADJUSTED_CLOSE]].isna()
    is_declared = frame.index.isin(pd.DatetimeIndex(list(known_missing)))
    is_blank = is_missing.all(axis=1) & frame[VOLUME].fillna(0).eq(0)
    has_event = frame[[DIVIDEND, SPLIT]].fillna(0).ne(0).any(axis=1)
    return frame[has_event | ~(is_blank | is_declared & is_missing.any(axis=1))]


def no_bars_error(
    symbol: str, who: str, exchange: str | None, first: np.datetime64, last: np.datetime64, refusal: str = ""
) -> MarketDataError:
    """Return what no bars from `first` to `last` mean: `NoData` only where the exchange was surely closed.

    Args:
        symbol: as the source spells it.
        who: the source.
        exchange: as the table of calendars has it, where it is known.
        first: a date.
        last: a date.
        refusal: what the source said instead, such as its status.
    """
    try:
        calendar: Calendar | None = calendar_of(exchange) if exchange else None
    except CalendarError:
        calendar = None
    if calendar is not None and _is_quiet(calendar, first, last):
        return NoData(symbol, f"{calendar.name} had no completed session from {first} to {last}; ask for other days")
    said = f" ({refusal})" if refusal else ""
    return SourceUnavailable(
        symbol, f"{who} gave no bars from {first} to {last}, where there must be some{said}; try later"
    )


def _is_quiet(calendar: Calendar, first: np.datetime64, last: np.datetime64) -> bool:
    until = min(last, calendar.last_completed(datetime.now(UTC)))
    return bool(until < first) or len(calendar.sessions(first, until)) == 0
