"""Micro-batching: what is asked at the same time is worked on together, and nobody waits for who has not come yet."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Batcher(Generic[Item, Result]):
    """Collects items for one call. Of one event loop; not to be shared between threads.

    Args:
        work: told each item and where its result is awaited; it must give every one a result or an error.
        most: items in a call.
        delay_seconds: how long the first waits for others; 0 takes only those that have come already.
    """

    work: Callable[[list[tuple[Item, asyncio.Future[Result]]]], None]
    most: int
    delay_seconds: float
    _waiting: list[tuple[Item, asyncio.Future[Result]]] = field(default_factory=list, init=False)
    _timer: asyncio.Handle | None = field(default=None, init=False)

    async def ask(self, item: Item) -> Result:
        """Return an item's result."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, result))
        if len(self._waiting) >= self.most:
            self._begin()
        elif self._timer is None:
            # behind whatever else the loop has been told of by now: requests that came together are read first
            is_patient = self.delay_seconds > 0
            self._timer = (
                loop.call_later(self.delay_seconds, self._begin) if is_patient else loop.call_soon(self._begin)
            )
        return await result

    def _begin(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, batch = None, [(item, result) for item, result in self._waiting if not result.done()]
        self._waiting = []
        if batch:
            self.work(batch)
