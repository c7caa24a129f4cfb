"""Group commit: answers that wait at the same time are written in one transaction, and each waits for its commit.

On SQLite the caller commits by itself if it need not wait for another writer: handing answers to a thread and back
takes as long as the commit.
"""

import queue
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine

from forecaster.database.engine import dialect_insert, insert_rows, is_in_place, transaction
from forecaster.database.tables import FORECASTS, REQUESTS
from forecaster.domain.errors import DatabaseUnavailable
from forecaster.domain.levels import format_levels
from forecaster.ledger.entries import Entry, forecast_id, pack_steps

# bounds how long the first forecast in a transaction waits for the last
_MAX_FORECASTS_PER_TRANSACTION = 5000
# beyond it, new answers are refused
_MAX_WAITING = 1000
# for each entry: whether it is new, or the error that kept it from being written
Outcome = bool | Exception
_Item = tuple[list[Entry], "Future[list[Outcome]]"]


@dataclass
class Writer:
    """Writes entries in a thread of its own. Its methods may be called from any thread.

    Args:
        engine: of the ledger's database.
        impatient_engine: of the same database, whose statements fail instead of waiting for another writer; None if all
            entries are left to the thread.
    """

    engine: Engine
    impatient_engine: Engine | None = None
    _waiting: "queue.Queue[_Item | None]" = field(default_factory=lambda: queue.Queue(_MAX_WAITING))
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the waiting entries, and end the thread."""
        if self._thread and self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """How many answers wait to be written."""
        return self._waiting.qsize()

    def submit(self, entries: list[Entry]) -> "Future[list[Outcome]]":
        """Queue entries; return a future that is done once they are committed.

        Returns:
            a future with the outcome of each entry: True if it was written, False if its idempotency key was taken, or
            the error that kept it from being written.

        Raises:
            DatabaseUnavailable: too many answers wait.
        """
        future: Future[list[Outcome]] = Future()
        try:
            self._waiting.put_nowait((entries, future))
        except queue.Full as error:
            raise DatabaseUnavailable("the ledger has too many answers to write; try again in a moment") from error
        return future

    def write_now(self, entries: list[Entry]) -> list[bool] | None:
        """Commit entries in the calling thread, if this needs no waiting.

        Returns:
            for each entry whether it is new, as `write` does; None if nothing was written, because others are writing
            or an entry cannot be written. `submit` waits for the others, and tells which entry it is.
        """
        if self.impatient_engine is None or self.n_waiting or not is_in_place(self.impatient_engine):
            return None
        try:
            return write(self.impatient_engine, entries)
        # whatever the error: an entry that was committed all the same is refused by `submit`, because its id is taken
        except Exception:
            return None

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, n_forecasts = [], 0
            item = self._waiting.get()
            while item is not None:
                batch.append(item)
                n_forecasts += sum(len(entry.forecasts) for entry in item[0])
                if n_forecasts >= _MAX_FORECASTS_PER_TRANSACTION:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            self._write(batch)
            self._reconnect()

    def _reconnect(self) -> None:
        """Open the file again after it was replaced, which may take seconds."""
        if self.impatient_engine is not None and not is_in_place(self.impatient_engine):
            with suppress(DatabaseUnavailable), transaction(self.impatient_engine):
                pass

    def _write(self, batch: list[_Item]) -> None:
        # marks the futures as running: setting the result of a cancelled future would raise an error
        running = [(entries, future) for entries, future in batch if future.set_running_or_notify_cancel()]
        outcomes = iter(self._commit([entry for entries, _ in running for entry in entries]))
        for entries, future in running:
            future.set_result([next(outcomes) for _ in entries])

    def _commit(self, entries: list[Entry]) -> list[Outcome]:
        if not entries:
            return []
        try:
            return [*write(self.engine, entries)]
        # the waiting callers get the error, and the thread goes on with the next entries
        except Exception as error:
            if len(entries) == 1:
                return [error]
            # a single entry may be the cause, or a conflict with another process: commit each by itself
            return [outcome for entry in entries for outcome in self._commit([entry])]


def write(engine: Engine, entries: list[Entry]) -> list[bool]:
    """Write entries in one transaction; return for each whether it is new, as its idempotency key was free.

    Raises:
        DatabaseUnavailable: the database does not answer; nothing was written.
    """
    with transaction(engine) as connection:
        return _insert(connection, entries)


def _insert(connection: Connection, entries: list[Entry]) -> list[bool]:
    """Insert entries; return for each whether it is new."""
    without_key = [_request_row(entry) for entry in entries if entry.idempotency_key is None]
    # sorted, so that two processes cannot deadlock
    with_key = sorted((entry for entry in entries if entry.idempotency_key is not None), key=_idempotency_key)
    inserted = {entry.request_id for entry in with_key if _insert_request(connection, entry)}
    is_new = [entry.idempotency_key is None or entry.request_id in inserted for entry in entries]
    rows = [row for entry, wanted in zip(entries, is_new, strict=True) if wanted for row in _forecast_rows(entry)]
    if without_key:
        insert_rows(connection, REQUESTS, without_key)
    if rows:
        insert_rows(connection, FORECASTS, rows)
    return is_new


def _idempotency_key(entry: Entry) -> tuple[str, str]:
    return entry.owner, entry.idempotency_key or ""


def _insert_request(connection: Connection, entry: Entry) -> bool:
    """Insert a request unless its idempotency key is taken; return whether it was inserted."""
    statement = dialect_insert(connection, REQUESTS).values(_request_row(entry)).on_conflict_do_nothing()
    return bool(connection.execute(statement).rowcount)


def _request_row(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.request_id,
        "answered_at": entry.answered_at,
        "client": entry.client,
        "owner": entry.owner,
        "idempotency_key": entry.idempotency_key,
        "body_digest": entry.body_digest,
        "head": entry.head,
    }


def _forecast_rows(entry: Entry) -> list[dict[str, Any]]:
    return [
        {
            "forecast_id": forecast_id(entry.request_id, position),
            "request_id": entry.request_id,
            "owner": entry.owner,
            "position": position,
            "answered_at": entry.answered_at,
            "model": entry.model,
            "version": entry.version,
            "is_shadow": entry.is_shadow,
            "forecast_by": entry.forecast_by,
            "unique_id": forecast.unique_id,
            "first_at": int(forecast.steps[0, 0]),
            "last_at": int(forecast.steps[-1, 0]),
            "last_value": forecast.last_value,
            "tolerance": forecast.tolerance,
            "steps": pack_steps(forecast.steps),
            "levels": format_levels(forecast.levels),
            "answer": forecast.answer,
        }
        for position, forecast in enumerate(entry.forecasts)
    ]
