"""Unix time in whole microseconds, as the database and the ledger store it."""

import time
from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
HOUR = 60 * 60 * SECOND
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_microseconds() -> int:
    """Return the current Unix time in microseconds."""
    return time.time_ns() // 1000


def to_microseconds(value: datetime) -> int:
    """Convert a datetime with a time zone to Unix microseconds."""
    return (value - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(microseconds: int) -> datetime:
    """Convert Unix microseconds to a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)
