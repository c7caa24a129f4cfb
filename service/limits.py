"""Limits: how often a client may ask, how many requests are worked on at once, and how many bytes they may hold."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.exceptions import TooBusy, TooManyRequests

# a body or an answer above this is large: it is counted, and worked on away from the event loop
LARGE_BYTES = 64 * 1024
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass
class Rate:
    """A moving window for each client, by a clock that nobody sets.

    Args:
        text: such as `600/minute`; empty for no limit.
        clock: seconds, never going back.
    """

    text: str
    clock: Callable[[], float] = time.monotonic
    _most: int = field(default=0, init=False)
    _window: float = field(default=0, init=False)
    # of each client, when it asked inside the window, oldest first
    _asked: dict[str, deque[float]] = field(default_factory=dict, init=False)
    _swept_at: float = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Read the text."""
        if self.text:
            most, _, unit = self.text.partition("/")
            self._most, self._window = int(most), _SECONDS[unit]

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
            TooManyRequests: it is one too many.
        """
        if not self._most:
            return
        now = self.clock()
        self._sweep(now)
        asked = self._asked.setdefault(client, deque())
        while asked and asked[0] <= now - self._window:
            asked.popleft()
        if len(asked) >= self._most:
            seconds = max(1, round(asked[0] + self._window - now))
            raise TooManyRequests(f"more than {self.text.replace('/', ' per ')}; come again in {seconds} s", seconds)
        asked.append(now)

    def _sweep(self, now: float) -> None:
        """Forget clients that have not asked for a whole window."""
        if now - self._swept_at >= self._window:
            self._swept_at = now
            self._asked = {who: asked for who, asked in self._asked.items() if asked[-1] > now - self._window}


@dataclass
class Budget:
    """Bytes that requests may hold together."""

    most: int
    what: str
    held: int = field(default=0, init=False)

    def change(self, before: int, after: int) -> None:
        """Let a request that holds `before` bytes hold `after`.

        Raises:
            TooBusy: all of them would hold more than there may be; a request that is alone may hold any number.
        """
        others = self.held - before
        if others > 0 and after > before and others + after > self.most:
            raise TooBusy(
                f"the {self.what} of other requests take all memory that is set aside; come again in a moment"
            )
        self.held = others + after


@dataclass
class Limits:
    """All of them.

    Args:
        rate: such as `600/minute` for each key or address; empty for none.
        max_concurrent: forecasts at once.
        max_bytes: bytes of large bodies at once, and of large answers.
    """

    rate: str
    max_concurrent: int
    max_bytes: int
    n_running: int = field(default=0, init=False)
    rates: Rate = field(init=False)
    bodies: Budget = field(init=False)
    answers: Budget = field(init=False)
    # slots for threads that compute: more would take memory, and keep the event loop from the interpreter
    small: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2), init=False)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1), init=False)
    scoring: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2), init=False)

    def __post_init__(self) -> None:
        """Prepare."""
        self.rates = Rate(self.rate)
        self.bodies, self.answers = Budget(self.max_bytes, "bodies"), Budget(self.max_bytes, "answers")

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


@dataclass(slots=True)
class Share:
    """A request's part of a budget."""

    budget: Budget
    held: int = 0

    def hold(self, count: int) -> None:
        """Hold `count` bytes; up to `LARGE_BYTES` are not counted.

        Raises:
            TooBusy: other requests hold all of the budget.
        """
        count = count if count > LARGE_BYTES else 0
        if count != self.held:
            self.budget.change(self.held, count)
            self.held = count


class Holding:
    """What a request holds of the limits until its answer is read: bytes of its body, bytes of its answer, slots."""

    __slots__ = ("_slots", "answer", "body")

    def __init__(self, limits: Limits) -> None:
        """Hold nothing yet."""
        self.body, self.answer = Share(limits.bodies), Share(limits.answers)
        self._slots: list[asyncio.Semaphore] = []

    async def acquire_slot(self, slots: asyncio.Semaphore) -> None:
        """Wait for one of `slots`, unless the request has one already."""
        if slots not in self._slots:
            await slots.acquire()
            self._slots.append(slots)

    def release_slot(self, slots: asyncio.Semaphore) -> None:
        """Give the slot back, if the request has one."""
        if slots in self._slots:
            self._slots.remove(slots)
            slots.release()

    def release(self) -> None:
        """Give everything back."""
        while self._slots:
            self._slots.pop().release()
        self.body.hold(0)
        self.answer.hold(0)
