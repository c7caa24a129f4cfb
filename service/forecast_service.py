"""Answers with a place in the ledger: each is committed there before its client sees it."""

import asyncio
import hashlib
import logging
import random
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from forecaster.database.engine import MAINTENANCE_TIMEOUT_SECONDS, is_in_place, open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.domain.errors import ForecasterError, RequestError
from forecaster.inference.answers import ledger_entry
from forecaster.inference.forecasting import MODEL
from forecaster.ledger.adaptation import read_all_miscoverage_rates
from forecaster.ledger.queries import StoredAnswer, find_answer
from forecaster.ledger.writer import Writer
from forecaster.registry.cache import CHALLENGER, CHAMPION
from service.catalog import Catalog
from service.forecast_queue import ForecastQueue, RequestContext
from service.forecasting import forecast, prepare
from service.metrics import Metrics
from service.schemas import ForecastRequest
from service.settings import Settings

# how often a database that does not answer is asked again
RETRY_SECONDS = 2
# rows of history
_FEW = 2000
# clients are not told where the database is
_AWAY = "the database does not answer; see the log"
_log = logging.getLogger("forecaster.service")


@dataclass
class ForecastService:
    """The service's side of the ledger."""

    settings: Settings
    metrics: Metrics
    _problem: str | None = field(default=None, init=False)
    # for reading; for what takes long; the writer has one of its own, so that readers cannot keep it waiting
    engine: Engine = field(init=False)
    maintenance_engine: Engine = field(init=False)
    writer: Writer = field(init=False)
    queue: ForecastQueue = field(init=False)

    def __post_init__(self) -> None:
        """Prepare; nothing is connected to yet."""
        url = self.settings.database_url
        self.engine, self.maintenance_engine = open_engine(url), open_engine(url, MAINTENANCE_TIMEOUT_SECONDS)
        self.writer = Writer(open_engine(url))
        self.queue = ForecastQueue(self.settings, self.metrics, self.writer)

    @property
    def last_problem(self) -> str | None:
        """Return why the ledger cannot be used, None if it can."""
        return self._problem or (None if is_in_place(self.engine) else _AWAY)

    async def open(self) -> None:
        """Bring the tables up to date and learn from the scores, as soon as the database answers."""
        while True:
            try:
                await asyncio.to_thread(self._open)
            # whatever it is, the next try may do better
            except Exception as error:
                _log.error("the database cannot be used: %s", error)
                self._problem = _AWAY
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._problem = None
                return

    def _open(self) -> None:
        upgrade_schema(self.maintenance_engine)
        for engine in (self.engine, self.writer.engine):
            # each is to know which database it began with
            with transaction(engine):
                pass
        self.learn()

    def learn(self) -> None:
        """Let intervals follow what they have covered so far.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        if self.settings.adapt_intervals:
            self.queue.miscoverage_rates = read_all_miscoverage_rates(self.maintenance_engine)

    def close(self) -> None:
        """Write what waits, and let go of the database."""
        self.writer.stop()
        for engine in (self.writer.engine, self.engine, self.maintenance_engine):
            engine.dispose()

    async def answer(
        self, request: ForecastRequest, catalog: Catalog, context: RequestContext, *, is_large: bool = False
    ) -> tuple[StoredAnswer, bool]:
        """Answer a request, and say whether that is new, once the ledger has it; under the same key, the same.

        A large request is always answered by another thread.

        Raises:
            RequestError: the idempotency key was used for another request.
            DatabaseUnavailable: the ledger cannot be read or written.
            ForecasterError: as `forecast` says.
        """
        before = await self.find_stored_answer(context)
        if before is not None:
            return before, False
        if not is_large and request.series and sum(len(one.ds) for one in request.series) <= _FEW:
            # sooner done than handed to another thread
            task = prepare(request, catalog, self.settings)
            entry, is_new = await self.queue.answer_small(task, context)
        else:
            preparing = partial(prepare, request, catalog, self.settings)
            entry, is_new = await self.queue.answer_large(preparing, context)
        if not is_new:
            # somebody with the same key was faster
            return await self.answer(request, catalog, context, is_large=is_large)
        return StoredAnswer(entry.head, [one.answer for one in entry.forecasts], context.body_digest), True

    async def find_stored_answer(self, context: RequestContext) -> StoredAnswer | None:
        """Return what was answered under a request's idempotency key, None if nothing was or it has no key.

        Raises:
            RequestError: the key was used for another request.
            DatabaseUnavailable: the ledger cannot be read.
        """
        if context.idempotency_key is None:
            return None
        before = await run_in_threadpool(
            find_answer, self.engine, context.owner, context.idempotency_key, context.body_digest
        )
        if before is not None and before.body_digest != context.body_digest:
            raise RequestError("Idempotency-Key: it was used for another request; take a new one for each")
        return before

    def has_shadow(self, request: ForecastRequest, catalog: Catalog) -> bool:
        """Say whether a challenger answers this request too: a share of those for another champion."""
        aliases = catalog[request.model].index.aliases
        if CHALLENGER not in aliases or aliases[CHALLENGER] == aliases.get(CHAMPION):
            return False
        is_champions = request.version is None and request.alias in (None, CHAMPION)
        return is_champions and random.random() < self.settings.shadow_share  # noqa: S311  # a sample, no secret

    def shadow(self, request: ForecastRequest, catalog: Catalog, context: RequestContext) -> None:
        """Let the challenger answer the champion's request, unseen."""
        try:
            # by the model itself, whatever its clients would get: its own skill is to be known
            settings = self.settings.model_copy(update={"without_skill": MODEL})
            task = prepare(request.model_copy(update={"alias": CHALLENGER}), catalog, settings)
            (result,) = forecast([task], [{}])
            entry = ledger_entry(result.answer, client=context.client, owner=context.owner, is_shadow=True)
            # waited for, so that no more of them are in memory than are made at once
            self.writer.submit([entry]).result()
        except ForecasterError as error:
            self.metrics.shadow_failures.labels(request.model).inc()
            _log.warning("model '%s', challenger: %s", request.model, error)


def digest_body(body: bytes) -> str:
    """Return a request's digest, SHA-256."""
    return hashlib.sha256(body).hexdigest()
