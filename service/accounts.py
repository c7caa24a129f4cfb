"""Answers with a place in the ledger: each is committed there before its client sees it."""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from forecaster.database.engine import UPKEEP_SECONDS, open_engine
from forecaster.database.schema import bring_up_to_date
from forecaster.domain.errors import ForecasterError, RequestError
from forecaster.domain.instants import now_at
from forecaster.ledger.entries import Entry, Served, forecast_id, new_request_id
from forecaster.ledger.reading import Answered, find_answer
from forecaster.ledger.writer import Outcome, Writer
from forecaster.registry.cache import CHALLENGER, CHAMPION
from service.batching import Batcher
from service.catalog import Catalog
from service.drift import DriftWatch
from service.forecasting import Allowed, Answer, Task, forecast, prepare
from service.metrics import Metrics
from service.schemas import ForecastRequest
from service.settings import Settings

# how often a database that does not answer is asked again
RETRY_SECONDS = 2
# rows of history
_FEW = 2000
_log = logging.getLogger("service")


@dataclass(frozen=True)
class Asking:
    """Who asks: a key's id, empty where none is needed; and under which idempotency key, with the body's digest."""

    client: str = ""
    idempotency_key: str | None = None
    body_digest: str | None = None


# a task, and who asks
_Asked = tuple[Task, Asking]
# what the ledger has, and whether that is new
_Written = tuple[Entry, bool]
_Waiting = tuple[_Asked, "asyncio.Future[_Written]"]


@dataclass
class Accounts:
    """The service's side of the ledger."""

    settings: Settings
    metrics: Metrics
    last_problem: str | None = field(default=None, init=False)
    drift: DriftWatch = field(default_factory=DriftWatch, init=False)
    # replaced as a whole by whoever looks at what came
    allowed: Allowed = field(default_factory=dict, init=False)
    # for reading; for what takes long; the writer has one of its own, so that readers cannot keep it waiting
    engine: Engine = field(init=False)
    upkeep: Engine = field(init=False)
    writer: Writer = field(init=False)
    _batcher: Batcher[_Asked, _Written] = field(init=False)

    def __post_init__(self) -> None:
        """Prepare; nothing is connected to yet."""
        url = self.settings.database_url
        self.engine, self.upkeep = open_engine(url), open_engine(url, UPKEEP_SECONDS)
        self.writer = Writer(open_engine(url))
        self._batcher = Batcher(self._together, self.settings.batch_size, self.settings.batch_delay_seconds)

    async def open(self) -> None:
        """Bring the tables up to date, as soon as the database answers, and keep trying until then."""
        while True:
            try:
                await asyncio.to_thread(bring_up_to_date, self.upkeep)
            # whatever it is, the next try may do better
            except Exception as error:
                _log.error("the database cannot be used: %s", error)
                # where it is, is not everybody's affair
                self.last_problem = "the database does not answer; see the log"
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.last_problem = None
                return

    def close(self) -> None:
        """Write what waits, and let go of the database."""
        self.writer.stop()
        for engine in (self.writer.engine, self.engine, self.upkeep):
            engine.dispose()

    async def answer(self, request: ForecastRequest, catalog: Catalog, asking: Asking) -> tuple[Answered, bool]:
        """Answer a request, and say whether that is new, once the ledger has it; under the same key, the same.

        Raises:
            RequestError: the idempotency key was used for another request.
            DatabaseUnavailable: the ledger cannot be read or written.
            ForecasterError: as `forecast` says.
        """
        if asking.idempotency_key is not None:
            before = await run_in_threadpool(find_answer, self.engine, asking.client, asking.idempotency_key)
            if before is not None:
                return _same(before, asking), False
        if request.series and sum(len(one.ds) for one in request.series) <= _FEW:
            # sooner done than handed to another thread
            entry, is_new = await self._batcher.ask((prepare(request, catalog, self.settings), asking))
        else:
            entry, is_new = await self._alone(request, catalog, asking)
        if not is_new:
            # somebody with the same key was faster
            return await self.answer(request, catalog, asking)
        return Answered(entry.head, [one.answer for one in entry.forecasts], asking.body_digest), True

    async def _alone(self, request: ForecastRequest, catalog: Catalog, asking: Asking) -> _Written:
        """Answer a large request by another thread, and write it."""

        def work() -> Entry:
            return self._forecast([(prepare(request, catalog, self.settings), asking)])[0]

        entry = await run_in_threadpool(work)
        with self.metrics.writing.time():
            (outcome,) = await asyncio.wrap_future(self.writer.submit([entry]))
        if isinstance(outcome, Exception):
            raise outcome
        return entry, outcome

    def _together(self, batch: list[_Waiting]) -> None:
        """Answer small requests that came at the same time, and let each know when all are written."""
        done: list[tuple[Entry, asyncio.Future[_Written]]] = []
        groups: dict[Hashable, list[_Waiting]] = {}
        for one in batch:
            groups.setdefault(one[0][0].kind, []).append(one)
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

    def _those_that_can(self, group: list[_Waiting]) -> list[tuple[Entry, asyncio.Future[_Written]]]:
        """Return the entries of tasks of one kind; who asks for what cannot be forecast is told so."""
        try:
            entries = self._forecast([asked for asked, _ in group])
        # whatever it is, who waits is told; one of them may be to blame, so each is tried by itself
        except Exception as error:
            if len(group) > 1:
                return [done for one in group for done in self._those_that_can([one])]
            _settle(group[0][1], error)
            return []
        return [(entry, result) for entry, (_, result) in zip(entries, group, strict=True)]

    def _forecast(self, asked: list[_Asked]) -> list[Entry]:
        """Return the entries of tasks of one kind."""
        begin = time.perf_counter()
        answers = forecast([task for task, _ in asked], self.allowed)
        entries = [as_entry(answer, asking) for answer, (_, asking) in zip(answers, asked, strict=True)]
        first, predictor = answers[0], asked[0][0].predictor
        windows, features = (
            np.concatenate([getattr(answer, name) for answer in answers]) for name in ("windows", "features")
        )
        self.metrics.inference.labels(first.model).observe(time.perf_counter() - begin)
        self.metrics.batch.labels(first.model).observe(len(windows))
        self.drift.add(first.model, first.version, predictor, windows, features)
        return entries

    def shadow(self, request: ForecastRequest, catalog: Catalog, asking: Asking) -> None:
        """Let a challenger answer a share of the champion's requests, unseen."""
        is_champions = request.version is None and request.alias in (None, CHAMPION)
        if not is_champions or random.random() >= self.settings.shadow_share:  # noqa: S311  # a sample, no secret
            return
        model = catalog[request.model]
        if CHALLENGER not in model.index.aliases:
            return
        try:
            task = prepare(request.model_copy(update={"alias": CHALLENGER}), catalog, self.settings)
            self.writer.submit([as_entry(forecast([task], {})[0], Asking(asking.client), is_shadow=True)])
        except ForecasterError as error:
            self.metrics.shadow_failures.labels(request.model).inc()
            _log.warning("model '%s', challenger: %s", request.model, error)


def as_entry(answer: Answer, asking: Asking, *, is_shadow: bool = False) -> Entry:
    """Return an answer as the ledger takes it, each forecast with its id."""
    now = now_at()
    request_id = new_request_id(now)
    forecasts = tuple(
        Served(
            unique_id=one["unique_id"],
            last_value=float(last),
            steps=steps,
            tolerance=answer.tolerance,
            answer=to_json({"forecast_id": forecast_id(request_id, position), **one}).decode(),
        )
        for position, (one, last, steps) in enumerate(
            zip(answer.forecasts, answer.windows[:, -1], answer.steps, strict=True)
        )
    )
    return Entry(
        request_id=request_id,
        answered_at=now,
        client=asking.client,
        model=answer.model,
        version=answer.version,
        forecast_by=answer.head["forecast_by"],
        head=to_json(answer.head).decode(),
        forecasts=forecasts,
        is_shadow=is_shadow,
        idempotency_key=asking.idempotency_key,
        body_digest=asking.body_digest,
    )


def _settle(result: asyncio.Future[_Written], outcome: _Written | Exception) -> None:
    # whoever asked may be gone
    if result.done():
        return
    if isinstance(outcome, Exception):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)


def digest_body(body: bytes) -> str:
    """Return a request's digest, SHA-256."""
    return hashlib.sha256(body).hexdigest()


def _same(before: Answered, asking: Asking) -> Answered:
    if before.body_digest != asking.body_digest:
        raise RequestError("Idempotency-Key: it was used for another request; take a new one for each")
    return before
