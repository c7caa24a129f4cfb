"""Limits: requests per client, concurrent requests, and bytes of request and response bodies in memory."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.exceptions import Overloaded, TooManyRequests

# bodies and answers above this size are large: their memory is limited, and worker threads process them
LARGE_BYTES = 64 * 1024
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass
class RateLimiter:
    """A rate limit for each client, over a sliding window.

    Args:
        rate: such as `600/minute`; empty for no limit.
        clock: returns a monotonic time in seconds.
    """

    rate: str
    clock: Callable[[], float] = time.monotonic
    _max_requests: int = field(default=0, init=False)
    _window: float = field(default=0, init=False)
    # the times of each client's requests inside the window, oldest first
    _requests: dict[str, deque[float]] = field(default_factory=dict, init=False)
    _swept_at: float = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Parse the rate."""
        if self.rate:
            count, _, unit = self.rate.partition("/")
            self._max_requests, self._window = int(count), _SECONDS[unit]

    @property
    def n_clients(self) -> int:
        """Return the number of clients whose requests are remembered."""
        return len(self._requests)

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
            TooManyRequests: the client has reached its limit.
        """
        if not self._max_requests:
            return
        now = self.clock()
        self._sweep(now)
        requests = self._requests.setdefault(client, deque())
        while requests and requests[0] <= now - self._window:
            requests.popleft()
        if len(requests) >= self._max_requests:
            seconds = max(1, round(requests[0] + self._window - now))
            limit = self.rate.replace("/", " requests per ")
            raise TooManyRequests(f"rate limit of {limit} exceeded; retry in {seconds} s", seconds)
        requests.append(now)

    def _sweep(self, now: float) -> None:
        """Forget clients without a request in the last window."""
        if now - self._swept_at >= self._window:
            self._swept_at = now
            self._requests = {
                client: requests for client, requests in self._requests.items() if requests[-1] > now - self._window
            }


@dataclass
class ByteBudget:
    """The bytes that all requests together may reserve for `name`."""

    limit: int
    name: str
    reserved: int = field(default=0, init=False)

    def resize(self, before: int, after: int) -> None:
        """Change a request's reservation from `before` to `after` bytes.

        Raises:
            Overloaded: the total would exceed the limit. A request may exceed it while no other holds a reservation.
        """
        others = self.reserved - before
        if others > 0 and after > before and others + after > self.limit:
            raise Overloaded(f"the {self.name} of other requests take all the memory set aside for them; retry")
        self.reserved = others + after


@dataclass
class Limits:
    """The limits of one application.

    Args:
        rate: such as `600/minute` for each key or address; empty for no limit.
        max_concurrent: forecast requests that may run at once.
        max_bytes: bytes that large bodies may take at once, and as many for large answers.
    """

    rate: str
    max_concurrent: int
    max_bytes: int
    n_running: int = field(default=0, init=False)
    rate_limiter: RateLimiter = field(init=False)
    bodies: ByteBudget = field(init=False)
    answers: ByteBudget = field(init=False)
    # slots for worker threads; more threads would take more memory and starve the event loop of the GIL
    small: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2), init=False)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1), init=False)
    scoring: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2), init=False)

    def __post_init__(self) -> None:
        """Create the rate limiter and the budgets."""
        self.rate_limiter = RateLimiter(self.rate)
        self.bodies, self.answers = ByteBudget(self.max_bytes, "bodies"), ByteBudget(self.max_bytes, "answers")

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a forecast request as running.

        Raises:
            Overloaded: `max_concurrent` requests are running.
        """
        if self.n_running >= self.max_concurrent:
            raise Overloaded(f"{self.max_concurrent} forecast requests are running, the most allowed; retry")
        self.n_running += 1
        try:
            yield
        finally:
            self.n_running -= 1


@dataclass(slots=True)
class Reservation:
    """The bytes of a budget that a request has reserved."""

    budget: ByteBudget
    n_bytes: int = 0

    def resize(self, n_bytes: int) -> None:
        """Reserve `n_bytes` in total; up to `LARGE_BYTES` are free.

        Raises:
            Overloaded: other requests have reserved the whole budget.
        """
        n_bytes = n_bytes if n_bytes > LARGE_BYTES else 0
        if n_bytes != self.n_bytes:
            self.budget.resize(self.n_bytes, n_bytes)
            self.n_bytes = n_bytes


class RequestResources:
    """The resources that a request holds until its answer has been sent: reserved bytes and slots."""

    __slots__ = ("_slots", "answer", "body")

    def __init__(self, limits: Limits) -> None:
        """Start without reservations and slots."""
        self.body, self.answer = Reservation(limits.bodies), Reservation(limits.answers)
        self._slots: list[asyncio.Semaphore] = []

    async def acquire_slot(self, slots: asyncio.Semaphore) -> None:
        """Wait for one of `slots`, unless the request holds one already."""
        if slots not in self._slots:
            await slots.acquire()
            self._slots.append(slots)

    def release_slot(self, slots: asyncio.Semaphore) -> None:
        """Release the request's slot, if it holds one."""
        if slots in self._slots:
            self._slots.remove(slots)
            slots.release()

    def release(self) -> None:
        """Release all slots and reservations."""
        while self._slots:
            self._slots.pop().release()
        self.body.resize(0)
        self.answer.resize(0)
