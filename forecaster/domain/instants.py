"""Instants as the database and the ledger have them: whole microseconds since 1970, in UTC."""

import time
from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
HOUR = 60 * 60 * SECOND
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_at() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000


def as_at(moment: datetime) -> int:
    """Return a moment, which has a zone, in microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def as_moment(at: int) -> datetime:
    """Return microseconds since 1970 as a moment in UTC."""
    return _EPOCH + timedelta(microseconds=at)
