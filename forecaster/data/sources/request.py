"""Shared by sources with an HTTP API: symbols, retries, and errors for empty responses."""

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

# such as `BRK-B`, `^GSPC`, `EURUSD=X`, `M&M.NS` and `005930.KS`; other characters could change the URL
_SYMBOL = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9.^=&_-]{1,40}")
SPELLING = "write letters, digits and . - ^ = & _, at most 40"


def is_symbol(symbol: str) -> bool:
    """Whether a symbol has only allowed characters, which cannot change the URL."""
    return _SYMBOL.fullmatch(symbol) is not None


def check_symbol(symbol: str) -> None:
    """Raise UnknownSymbol if a symbol has other characters."""
    if not is_symbol(symbol):
        raise UnknownSymbol(repr(symbol), "is not a valid symbol: " + SPELLING)


def fetch_with_retries(session: MarketSession, once: Callable[[], Bars], tries: int, backoff_seconds: float) -> Bars:
    """Call `once`, with retries after errors that a retry can help, except after a rate limit.

    Args:
        session: the session that `once` uses.
        once: fetches the bars.
        tries: maximum number of calls.
        backoff_seconds: the longest wait before the second call; it doubles with each call.

    Raises:
        SourceUnreachable: the source does not respond to any request.
        MarketDataError: raised by the last call of `once`.
    """
    session.begin()
    for number in range(tries):
        try:
            return once()
        except MarketDataError as error:
            if isinstance(error, RateLimited) or not error.can_retry:
                raise
            if number == tries - 1 or session.is_given_up:
                if isinstance(error, SourceUnavailable) and not session.is_reachable():
                    raise SourceUnreachable(error.symbol, error.message) from error
                raise
            # full jitter, so that concurrent clients do not retry at the same time
            time.sleep(random.uniform(0, backoff_seconds * 2**number))  # noqa: S311
    raise AssertionError("tries is at least 1")


def rate_limit_error(symbol: str, source: str, error: RetryAfterTooLong) -> RateLimited:
    """Return the error for a `Retry-After` that is too long to wait for."""
    at = datetime.now(UTC) + timedelta(seconds=error.seconds)
    return RateLimited(
        symbol,
        f"{source} asks to wait {error.seconds:.0f} s (status {error.status}); "
        f"run again after {at:%Y-%m-%d %H:%M:%S} UTC",
    )


def drop_blank_rows(frame: pd.DataFrame, known_missing: Sequence[date]) -> pd.DataFrame:
    """Drop rows without any value, which sources return for days without trading.

    Args:
        frame: bars, as in `Bars.frame`.
        known_missing: days whose rows are dropped if any price is missing.
    """
    is_missing = frame[[*PRICES, ADJUSTED_CLOSE]].isna()
    is_declared = frame.index.isin(pd.DatetimeIndex(list(known_missing)))
    is_blank = is_missing.all(axis=1) & frame[VOLUME].fillna(0).eq(0)
    has_event = frame[[DIVIDEND, SPLIT]].fillna(0).ne(0).any(axis=1)
    return frame[has_event | ~(is_blank | is_declared & is_missing.any(axis=1))]


def no_bars_error(
    symbol: str, source: str, exchange: str | None, first: np.datetime64, last: np.datetime64, refusal: str = ""
) -> MarketDataError:
    """Return the error for a response without bars: `NoData` if the exchange was closed, else `SourceUnavailable`.

    Args:
        symbol: as the source spells it.
        source: the name of the source.
        exchange: a name that `calendar_of` accepts; None if unknown.
        first: the first requested date.
        last: the last requested date.
        refusal: the source's status and reason, if it sent any.
    """
    try:
        calendar: Calendar | None = calendar_of(exchange) if exchange else None
    except CalendarError:
        calendar = None
    if calendar is not None and _is_closed(calendar, first, last):
        return NoData(symbol, f"{calendar.name} had no completed session from {first} to {last}; request other days")
    reason = f" ({refusal})" if refusal else ""
    return SourceUnavailable(
        symbol, f"{source} returned no bars from {first} to {last}, although there were sessions{reason}; try later"
    )


def _is_closed(calendar: Calendar, first: np.datetime64, last: np.datetime64) -> bool:
    until = min(last, calendar.last_completed(datetime.now(UTC)))
    return bool(until < first) or len(calendar.sessions(first, until)) == 0
