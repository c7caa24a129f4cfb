"""What sources that are asked over a network share: when to ask again, and what an empty answer means."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from forecaster.data.bars import Bars
from forecaster.data.calendars import Calendar, calendar_of
from forecaster.domain.errors import CalendarError, MarketDataError, NoData, RateLimited, SourceUnavailable


def ask(once: Callable[[], Bars], tries: int, backoff_seconds: float) -> Bars:
    """Return what `once` does, asked again where that can help, never after a rate limit.

    Args:
        once: asks.
        tries: how often at most.
        backoff_seconds: the longest wait before the second try; it doubles.
    """
    for number in range(tries):
        try:
            return once()
        except MarketDataError as error:
            if isinstance(error, RateLimited) or not error.can_retry or number == tries - 1:
                raise
            # full jitter, so that many fetchers do not come back together
            time.sleep(random.uniform(0, backoff_seconds * 2**number))  # noqa: S311
    raise AssertionError("tries is at least 1")


def nothing(symbol: str, who: str, exchange: str | None, first: np.datetime64, last: np.datetime64) -> MarketDataError:
    """Return what no bars from `first` to `last` mean: `NoData` only where the exchange was surely closed."""
    try:
        calendar: Calendar | None = calendar_of(exchange) if exchange else None
    except CalendarError:
        calendar = None
    if calendar is not None and _is_quiet(calendar, first, last):
        return NoData(symbol, f"{calendar.name} had no completed session from {first} to {last}; ask for other days")
    return SourceUnavailable(symbol, f"{who} gave no bars from {first} to {last}, where there must be some; try later")


def _is_quiet(calendar: Calendar, first: np.datetime64, last: np.datetime64) -> bool:
    until = min(last, calendar.last_completed(datetime.now(UTC)))
    return bool(until < first) or len(calendar.sessions(first, until)) == 0
