"""The queue of forecast requests: small ones are forecast in batches, and each is answered once the ledger has it."""

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
    """Collects items and processes them in batches. Belongs to one event loop; not thread-safe.

    Args:
        process: called with each batch; it must set the result or the exception of every future.
        max_items: maximum number of items in a batch.
        delay_seconds: how long the first item waits for others; 0 takes only items that have already arrived.
    """

    process: Callable[[list[tuple[Item, asyncio.Future[Result]]]], None]
    max_items: int
    delay_seconds: float
    _waiting: list[tuple[Item, asyncio.Future[Result]]] = field(default_factory=list, init=False)
    _timer: asyncio.Handle | None = field(default=None, init=False)

    async def submit(self, item: Item) -> Result:
        """Return an item's result."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, result))
        if len(self._waiting) >= self.max_items:
            self._flush()
        elif self._timer is None:
            # call_soon runs after the callbacks that are already due, so requests that arrived together share a batch
            has_delay = self.delay_seconds > 0
            self._timer = loop.call_later(self.delay_seconds, self._flush) if has_delay else loop.call_soon(self._flush)
        return await result

    def _flush(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, batch = None, [(item, result) for item, result in self._waiting if not result.done()]
        self._waiting = []
        if batch:
            self.process(batch)


@dataclass(frozen=True)
class RequestContext:
    """The sender of a request, and the identity of the request for retries.

    Args:
        client: the id of the API key; empty if no key is required.
        owner: the key's owner.
        idempotency_key: the client's key for retries; None if it sent none.
        body_digest: the digest of the body; None without an idempotency key.
    """

    client: str = ""
    owner: str = ""
    idempotency_key: str | None = None
    body_digest: str | None = None


# a request in the queue
_Queued = tuple[Task, RequestContext]
# the entry in the ledger, and whether it is new
Written = tuple[Entry, bool]
_Waiting = tuple[_Queued, "asyncio.Future[Written]"]


@dataclass
class ForecastQueue:
    """Forecasts tasks, writes the forecasts to the ledger, and counts the inputs for drift."""

    settings: Settings
    metrics: Metrics
    writer: Writer
    drift: DriftMonitor = field(default_factory=DriftMonitor, init=False)
    # for adaptive intervals, by version and series; replaced as a whole
    miscoverage_rates: Mapping[VersionKey, Mapping[str, Floats]] = field(default_factory=dict, init=False)
    _batcher: Batcher[_Queued, Written] = field(init=False)

    def __post_init__(self) -> None:
        """Create the batcher of small requests."""
        self._batcher = Batcher(self._process, self.settings.batch_size, self.settings.batch_delay_seconds)

    async def answer_small(self, task: Task, context: RequestContext) -> Written:
        """Forecast a small request on the event loop, in a batch with other waiting requests.

        Raises:
            DatabaseUnavailable: the ledger cannot be written.
            ForecasterError: as for `forecast`.
        """
        return await self._batcher.submit((task, context))

    async def answer_large(self, prepare: Callable[[], Task], context: RequestContext) -> Written:
        """Prepare and forecast a large request in a worker thread; raises the errors of both."""
        entry = await run_in_threadpool(lambda: self._forecast([(prepare(), context)])[0])
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

    def _process(self, batch: list[_Waiting]) -> None:
        """Forecast a batch of requests; each gets its result once all entries are committed."""
        forecast_requests: list[tuple[Entry, asyncio.Future[Written]]] = []
        groups: dict[Forecaster, list[_Waiting]] = {}
        for waiting in batch:
            (task, _), _ = waiting
            groups.setdefault(task.forecaster, []).append(waiting)
        for group in groups.values():
            forecast_requests += self._forecast_group(group)
        if not forecast_requests:
            return
        start, loop = time.perf_counter(), asyncio.get_running_loop()

        def set_results(outcomes: list[Outcome]) -> None:
            self.metrics.writing.observe(time.perf_counter() - start)
            for (entry, result), outcome in zip(forecast_requests, outcomes, strict=True):
                _set_result(result, outcome if isinstance(outcome, Exception) else (entry, outcome))

        def on_written(written: "Future[list[Outcome]]") -> None:
            loop.call_soon_threadsafe(set_results, written.result())

        entries = [entry for entry, _ in forecast_requests]
        outcomes = self.writer.write_now(entries)
        if outcomes is not None:
            set_results([*outcomes])
            return
        try:
            written = self.writer.submit(entries)
        except ForecasterError as error:
            set_results([error] * len(forecast_requests))
        else:
            written.add_done_callback(on_written)

    def _forecast_group(self, group: list[_Waiting]) -> list[tuple[Entry, asyncio.Future[Written]]]:
        """Return the entries of requests with the same forecaster; a request that fails gets its exception instead."""
        try:
            entries = self._forecast([queued for queued, _ in group])
        # every waiting request needs an answer; one of them may have caused the error, so each is forecast on its own
        except Exception as error:
            if len(group) > 1:
                return [pair for waiting in group for pair in self._forecast_group([waiting])]
            _set_result(group[0][1], error)
            return []
        return [(entry, result) for entry, (_, result) in zip(entries, group, strict=True)]

    def _forecast(self, group: list[_Queued]) -> list[Entry]:
        """Return the entries of requests with the same forecaster."""
        start = time.perf_counter()
        rates = [
            self.miscoverage_rates.get((context.owner, task.model.name, task.version), {}) for task, context in group
        ]
        results = forecast([task for task, _ in group], rates)
        contexts = [context for _, context in group]
        entries = [
            ledger_entry(result.answer, **vars(context)) for result, context in zip(results, contexts, strict=True)
        ]
        task, _ = group[0]
        model = task.model.name
        self.metrics.inference.labels(model).observe(time.perf_counter() - start)
        self.metrics.batch.labels(model).observe(sum(len(result.windows) for result in results))
        by_owner: dict[str, list[TaskResult]] = {}
        for result, context in zip(results, contexts, strict=True):
            by_owner.setdefault(context.owner, []).append(result)
        for owner, owned in by_owner.items():
            windows = np.concatenate([result.windows for result in owned])
            features = np.concatenate([result.features for result in owned])
            self.drift.add(owner, model, task.version, task.forecaster.predictor, windows, features)
        return entries


def _set_result(result: asyncio.Future[Written], outcome: Written | Exception) -> None:
    # a future is done if the client has disconnected
    if result.done():
        return
    if isinstance(outcome, Exception):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)
