"""Group commit: answers that wait at the same time are written in one transaction, and each waits until it is."""

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine

from forecaster.database.engine import insert_all, insert_or, transaction
from forecaster.database.tables import FORECASTS, REQUESTS
from forecaster.domain.errors import DatabaseUnavailable
from forecaster.ledger.entries import Entry, forecast_id, pack

# forecasts in one transaction: bounds how long the first of them waits for the last
_MOST = 5000
# answers that wait; whoever comes then is told to come again
_MOST_WAITING = 1000
# of each entry: whether it is new, or why it could not be written
Outcome = bool | Exception


# entries, and who waits for them
_Item = tuple[list[Entry], "Future[list[Outcome]]"]


@dataclass
class Writer:
    """Writes entries from one thread of its own. Safe to use from any."""

    engine: Engine
    _waiting: "queue.Queue[_Item | None]" = field(default_factory=lambda: queue.Queue(_MOST_WAITING))
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end the thread."""
        if self._thread and self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Say whether the thread works."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Return how many answers wait to be written."""
        return self._waiting.qsize()

    def submit(self, entries: list[Entry]) -> "Future[list[Outcome]]":
        """Return what will say of each entry, once it is committed, whether it is new; or why it could not be.

        An entry whose idempotency key is taken already is not.

        Raises:
            DatabaseUnavailable: too many wait.
        """
        written: Future[list[Outcome]] = Future()
        try:
            self._waiting.put_nowait((entries, written))
        except queue.Full as error:
            raise DatabaseUnavailable("the ledger has too many answers to write; try again in a moment") from error
        return written

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, n_forecasts = [], 0
            item = self._waiting.get()
            while item is not None:
                batch.append(item)
                n_forecasts += sum(len(entry.forecasts) for entry in item[0])
                if n_forecasts >= _MOST:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            self._write(batch)

    def _write(self, batch: list[_Item]) -> None:
        # from here on nobody can cancel them, which would make their result an error here
        running = [(entries, written) for entries, written in batch if written.set_running_or_notify_cancel()]
        outcomes = iter(self._commit([entry for entries, _ in running for entry in entries]))
        for entries, written in running:
            written.set_result([next(outcomes) for _ in entries])

    def _commit(self, entries: list[Entry]) -> list[Outcome]:
        if not entries:
            return []
        try:
            return [*write(self.engine, entries)]
        # whatever it is, whoever waits is told of it, and the next ones are written
        except Exception as error:
            if len(entries) == 1:
                return [error]
            # one of them may be to blame, or two processes that met: each by itself
            return [outcome for entry in entries for outcome in self._commit([entry])]


def write(engine: Engine, entries: list[Entry]) -> list[bool]:
    """Write entries in one transaction, and say of each whether it is new: its idempotency key was not taken yet.

    Raises:
        DatabaseUnavailable: the database does not answer; nothing was written.
    """
    with transaction(engine) as connection:
        return _insert(connection, entries)


def _insert(connection: Connection, entries: list[Entry]) -> list[bool]:
    """Insert entries, and say of each whether it is new."""
    plain = [_request(entry) for entry in entries if entry.idempotency_key is None]
    # in one order, so that two processes cannot wait for each other
    once = sorted((entry for entry in entries if entry.idempotency_key is not None), key=_key)
    written = {entry.request_id for entry in once if _insert_once(connection, entry)}
    is_new = [entry.idempotency_key is None or entry.request_id in written for entry in entries]
    rows = [row for entry, one in zip(entries, is_new, strict=True) if one for row in _forecasts(entry)]
    if plain:
        insert_all(connection, REQUESTS, plain)
    if rows:
        insert_all(connection, FORECASTS, rows)
    return is_new


def _key(entry: Entry) -> tuple[str, str]:
    return entry.owner, entry.idempotency_key or ""


def _insert_once(connection: Connection, entry: Entry) -> bool:
    """Insert a request unless its idempotency key is taken; say whether it was."""
    statement = insert_or(connection, REQUESTS).values(_request(entry)).on_conflict_do_nothing()
    return bool(connection.execute(statement).rowcount)


def _request(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.request_id,
        "answered_at": entry.answered_at,
        "client": entry.client,
        "owner": entry.owner,
        "idempotency_key": entry.idempotency_key,
        "body_digest": entry.body_digest,
        "head": entry.head,
    }


def _forecasts(entry: Entry) -> list[dict[str, Any]]:
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
            "unique_id": one.unique_id,
            "first_at": int(one.steps[0, 0]),
            "last_at": int(one.steps[-1, 0]),
            "last_value": one.last_value,
            "tolerance": one.tolerance,
            "steps": pack(one.steps),
            "answer": one.answer,
        }
        for position, one in enumerate(entry.forecasts)
    ]
