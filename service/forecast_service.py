"""The forecast service: every answer is committed to the ledger before the client receives it."""

import asyncio
import hashlib
import logging
import random
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from forecaster.database.checkpoints import Checkpointer
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
from service.forecasting import Plan, forecast, plan, prepare
from service.metrics import Metrics
from service.requests import ForecastRequest
from service.settings import Settings

# interval between attempts to open a database that does not answer
RETRY_SECONDS = 2
# requests with up to this many rows of history are small: forecasting them costs less than changing threads
_MAX_SMALL_ROWS = 2000
# readiness is public, so it must not show the address of the database
_UNAVAILABLE = "the database does not answer; see the log"
_log = logging.getLogger("forecaster.service")


@dataclass
class ForecastService:
    """Answers forecast requests with the help of the ledger.

    Attributes:
        engine: for short reads.
        maintenance_engine: for slow queries. The writer has its own engine, so that neither kind can delay it.
    """

    settings: Settings
    metrics: Metrics
    _problem: str | None = field(default=None, init=False)
    engine: Engine = field(init=False)
    maintenance_engine: Engine = field(init=False)
    writer: Writer = field(init=False)
    checkpointer: Checkpointer = field(init=False)
    queue: ForecastQueue = field(init=False)

    def __post_init__(self) -> None:
        """Create the engines, the writer and the queue; nothing connects to the database yet."""
        url = self.settings.database_url
        self.engine, self.maintenance_engine = open_engine(url), open_engine(url, MAINTENANCE_TIMEOUT_SECONDS)
        is_sqlite = self.engine.dialect.name == "sqlite"
        impatient_engine = open_engine(url, 0, makes_checkpoints=False) if is_sqlite else None
        self.writer = Writer(open_engine(url), impatient_engine)
        self.checkpointer = Checkpointer(open_engine(url, 0))
        self.queue = ForecastQueue(self.settings, self.metrics, self.writer)

    @property
    def last_problem(self) -> str | None:
        """Return why the ledger cannot be used, None if it can."""
        return self._problem or (None if is_in_place(self.engine) else _UNAVAILABLE)

    async def open(self) -> None:
        """Upgrade the tables and load the adaptive intervals; retry until the database answers."""
        while True:
            try:
                await asyncio.to_thread(self._open)
            # the next attempt may succeed, whatever the error
            except Exception as error:
                _log.error("the database cannot be used: %s", error)
                self._problem = _UNAVAILABLE
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._problem = None
                self.checkpointer.start()
                return

    def _open(self) -> None:
        upgrade_schema(self.maintenance_engine)
        for engine in (self.engine, self.writer.engine, self.writer.impatient_engine):
            # connect now, because an engine remembers the database file that it opened
            if engine:
                with transaction(engine):
                    pass
        self.load_miscoverage_rates()

    def load_miscoverage_rates(self) -> None:
        """Update the adaptive intervals from the scores in the ledger.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        if self.settings.adapt_intervals:
            self.queue.miscoverage_rates = read_all_miscoverage_rates(self.maintenance_engine)

    def close(self) -> None:
        """Write the waiting entries and close all connections to the database."""
        self.checkpointer.stop()
        self.writer.stop()
        engines = (self.engine, self.maintenance_engine, self.writer.engine, self.writer.impatient_engine)
        for engine in (*engines, self.checkpointer.engine):
            if engine:
                engine.dispose()

    async def answer(
        self, request: ForecastRequest, planned: Plan, context: RequestContext, *, is_large: bool = False
    ) -> tuple[StoredAnswer, bool]:
        """Return the answer to a request once the ledger has it, and whether it is new.

        A retry with the same idempotency key gets the stored answer. Large requests are forecast in a worker thread.

        Raises:
            RequestError: the idempotency key was used for another request.
            DatabaseUnavailable: the ledger cannot be read or written.
            ForecasterError: as for `forecast`.
        """
        stored = await self.find_stored_answer(context)
        if stored is not None:
            return stored, False
        if not is_large and request.series and sum(len(series.ds) for series in request.series) <= _MAX_SMALL_ROWS:
            task = prepare(request, planned, self.settings)
            entry, is_new = await self.queue.answer_small(task, context)
        else:
            entry, is_new = await self.queue.answer_large(partial(prepare, request, planned, self.settings), context)
        if not is_new:
            # a concurrent request with the same idempotency key was answered first
            return await self.answer(request, planned, context, is_large=is_large)
        answers = [served.answer for served in entry.forecasts]
        return StoredAnswer(entry.head, answers, context.body_digest), True

    async def find_stored_answer(self, context: RequestContext) -> StoredAnswer | None:
        """Return the stored answer under a request's idempotency key; None if there is no answer or no key.

        Raises:
            RequestError: the key was used for another request.
            DatabaseUnavailable: the ledger cannot be read.
        """
        if context.idempotency_key is None:
            return None
        stored = await run_in_threadpool(
            find_answer, self.engine, context.owner, context.idempotency_key, context.body_digest
        )
        if stored is not None and stored.body_digest != context.body_digest:
            raise RequestError("Idempotency-Key: it was used for another request; use a new key for each request")
        return stored

    def has_shadow(self, request: ForecastRequest, catalog: Catalog) -> bool:
        """Return whether the challenger forecasts this request too: it forecasts a random share of the champion's."""
        aliases = catalog[request.model].index.aliases
        if CHALLENGER not in aliases or aliases[CHALLENGER] == aliases.get(CHAMPION):
            return False
        is_champions = request.version is None and request.alias in (None, CHAMPION)
        return is_champions and random.random() < self.settings.shadow_share  # noqa: S311  # a sample, not a secret

    def shadow(self, request: ForecastRequest, catalog: Catalog, context: RequestContext) -> None:
        """Forecast a champion's request with the challenger, and write the forecasts to the ledger only."""
        try:
            # never the baseline, because the shadow measures the model's own skill
            settings = self.settings.model_copy(update={"without_skill": MODEL})
            shadowed = request.model_copy(update={"alias": CHALLENGER, "n_samples": None})
            task = prepare(shadowed, plan(shadowed, catalog, settings), settings)
            (result,) = forecast([task], [{}])
            entry = ledger_entry(result.answer, client=context.client, owner=context.owner, is_shadow=True)
            # wait for the commit, so that entries do not pile up in memory
            self.writer.submit([entry]).result()
        except ForecasterError as error:
            self.metrics.shadow_failures.labels(request.model).inc()
            _log.warning("model '%s', challenger: %s", request.model, error)


def digest_body(body: bytes) -> str:
    """Return the SHA-256 of a request's body."""
    return hashlib.sha256(body).hexdigest()
