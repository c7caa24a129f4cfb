"""A queue before the ledger: small requests are forecast together, large ones alone, each answered once written."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from starlette.concurrency import run_in_threadpool

from forecaster.domain.errors import ForecasterError
from forecaster.domain.series import Floats
from forecaster.inference.answers import ledger_entry
from forecaster.inference.forecasting import Forecaster
from forecaster.ledger.entries import Entry
from forecaster.ledger.running_sums import VersionKey
from forecaster.ledger.writer import Outcome, Writer
from service.drift import DriftMonitor
from service.forecasting import Task, TaskResult, forecast
from service.metrics import Metrics
from service.settings import Settings

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


@dataclass(frozen=True)
class RequestContext:
    """Who asks: a key's id and owner, empty where none is needed; under which idempotency key, the body's digest."""

    client: str = ""
    owner: str = ""
    idempotency_key: str | None = None
    body_digest: str | None = None


# a task, and who asks
_Asked = tuple[Task, RequestContext]
# what the ledger has, and whether that is new
Written = tuple[Entry, bool]
_Waiting = tuple[_Asked, "asyncio.Future[Written]"]


@dataclass
class ForecastQueue:
    """Forecasts tasks, commits them to the ledger, and counts their inputs for drift."""

    settings: Settings
    metrics: Metrics
    writer: Writer
    drift: DriftMonitor = field(default_factory=DriftMonitor, init=False)
    # of each version and series, for adaptive intervals; replaced as a whole
    miscoverage_rates: Mapping[VersionKey, Mapping[str, Floats]] = field(default_factory=dict, init=False)
    _batcher: Batcher[_Asked, Written] = field(init=False)

    def __post_init__(self) -> None:
        """Make the queue of small requests."""
        self._batcher = Batcher(self._together, self.settings.batch_size, self.settings.batch_delay_seconds)

    async def answer_small(self, task: Task, context: RequestContext) -> Written:
        """Forecast a small request on the event loop, together with those that wait.

        Raises:
            DatabaseUnavailable: the ledger cannot be written.
            ForecasterError: as `forecast` says.
        """
        return await self._batcher.ask((task, context))

    async def answer_large(self, preparing: Callable[[], Task], context: RequestContext) -> Written:
        """Prepare and forecast a large request in another thread; raises the errors of both."""
        entry = await run_in_threadpool(lambda: self._forecast([(preparing(), context)])[0])
        return entry, await self.write(entry)

    async def write(self, entry: Entry) -> bool:
        """Commit an entry; return whether it is new.

        Raises:
            DatabaseUnavailable: the ledger cannot be written.
        """
        with self.metrics.writing.time():
            (outcome,) = await asyncio.wrap_future(self.writer.submit([entry]))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _together(self, batch: list[_Waiting]) -> None:
        """Forecast the waiting requests; each gets its entry once all are committed."""
        done: list[tuple[Entry, asyncio.Future[Written]]] = []
        groups: dict[Forecaster, list[_Waiting]] = {}
        for one in batch:
            groups.setdefault(one[0][0].forecaster, []).append(one)
        for group in groups.values():
            done += self._those_that_can(group)
        begin, loop = time.perf_counter(), asyncio.get_running_loop()

        def tell(outcomes: list[Outcome]) -> None:
            self.metrics.writing.observe(time.perf_counter() - begin)
            for (entry, result), outcome in zip(done, outcomes, strict=True):
                _settle(result, outcome if isinstance(outcome, Exception) else (entry, outcome))

        def tell_loop(written: "Future[list[Outcome]]") -> None:
            loop.call_soon_threadsafe(tell, written.result())

        if not done:
            return
        try:
            written = self.writer.submit([entry for entry, _ in done])
        except ForecasterError as error:
            tell([error] * len(done))
        else:
            written.add_done_callback(tell_loop)

    def _those_that_can(self, group: list[_Waiting]) -> list[tuple[Entry, asyncio.Future[Written]]]:
        """Return the entries of tasks of one forecaster; a task that cannot be forecast gets its error."""
        try:
            entries = self._forecast([asked for asked, _ in group])
        # every waiting request needs an answer; a single task may be at fault, so each is retried by itself
        except Exception as error:
            if len(group) > 1:
                return [done for one in group for done in self._those_that_can([one])]
            _settle(group[0][1], error)
            return []
        return [(entry, result) for entry, (_, result) in zip(entries, group, strict=True)]

    def _forecast(self, asked: list[_Asked]) -> list[Entry]:
        """Return the entries of tasks of one forecaster."""
        begin = time.perf_counter()
        learnt = [
            self.miscoverage_rates.get((context.owner, task.model.name, task.version), {}) for task, context in asked
        ]
        results = forecast([task for task, _ in asked], learnt)
        entries = [ledger_entry(one.answer, **vars(context)) for one, (_, context) in zip(results, asked, strict=True)]
        task = asked[0][0]
        model = task.model.name
        self.metrics.inference.labels(model).observe(time.perf_counter() - begin)
        self.metrics.batch.labels(model).observe(sum(len(one.windows) for one in results))
        by_owner: dict[str, list[TaskResult]] = {}
        for one, (_, context) in zip(results, asked, strict=True):
            by_owner.setdefault(context.owner, []).append(one)
        for owner, mine in by_owner.items():
            windows, features = (
                np.concatenate([getattr(one, name) for one in mine]) for name in ("windows", "features")
            )
            self.drift.add(owner, model, task.version, task.forecaster.predictor, windows, features)
        return entries


def _settle(result: asyncio.Future[Written], outcome: Written | Exception) -> None:
    # the client may have gone
    if result.done():
        return
    if isinstance(outcome, Exception):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)
