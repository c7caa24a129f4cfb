"""Limits: how often a client may ask, and how many forecasts are made at once."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from service.refusals import TooBusy, TooManyRequests


@dataclass
class Limits:
    """Both limits.

    Args:
        rate: such as `600/minute` for each key or address; empty for none.
        max_concurrent: forecasts at once.
    """

    rate: str
    max_concurrent: int
    n_running: int = field(default=0, init=False)
    _item: RateLimitItem | None = field(init=False)
    _limiter: MovingWindowRateLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Prepare."""
        self._item = parse(self.rate) if self.rate else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check_rate(self, who: str) -> None:
        """Count a request.

        Raises:
            TooManyRequests: it is one too many.
        """
        if self._item is None or self._limiter.hit(self._item, who):
            return
        # the moment at which the oldest of them no longer counts
        seconds = max(1, round(self._limiter.get_window_stats(self._item, who).reset_time - time.time()))
        raise TooManyRequests(f"more than {self._item}; come again in {seconds} s", seconds)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Take one of the places for forecasts.

        Raises:
            TooBusy: all are taken.
        """
        if self.n_running >= self.max_concurrent:
            raise TooBusy(f"{self.max_concurrent} forecasts are being made; come again in a moment")
        self.n_running += 1
        try:
            yield
        finally:
            self.n_running -= 1
