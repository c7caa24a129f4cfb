"""Instants as the database and the ledger have them: whole microseconds since 1970, in UTC."""

import time

DAY = 24 * 60 * 60 * 1_000_000


def now_at() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000
