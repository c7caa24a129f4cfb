"""Group commit: answers that wait at the same time are written in one transaction, and each waits until it is."""

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, insert

from forecaster.database.engine import insert_or, transaction
from forecaster.database.tables import FORECASTS, REQUESTS
from forecaster.domain.errors import DatabaseUnavailable
from forecaster.ledger.entries import Entry, forecast_id, pack

# forecasts in one transaction: bounds how long the first of them waits for the last
_MOST = 5000
# answers that wait; whoever comes then is told to come again
_MOST_WAITING = 1000
# how long a commit is put off at most for others, and how long nobody comes before it is not
_GATHER_SECONDS, _PAUSE_SECONDS = 0.005, 0.001


@dataclass
class Writer:
    """Writes entries from one thread of its own. Safe to use from any."""

    engine: Engine
    _waiting: "queue.Queue[tuple[Entry, Future[bool]] | None]" = field(
        default_factory=lambda: queue.Queue(_MOST_WAITING)
    )
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

    def submit(self, entry: Entry) -> "Future[bool]":
        """Return what will be True once the entry is committed, False where its idempotency key is taken already.

        Raises:
            DatabaseUnavailable: too many wait.
        """
        written: Future[bool] = Future()
        try:
            self._waiting.put_nowait((entry, written))
        except queue.Full as error:
            raise DatabaseUnavailable("the ledger has too many answers to write; try again in a moment") from error
        return written

    def _work(self) -> None:
        is_open, n_before = True, 1
        while is_open:
            batch, n_forecasts = [], 0
            item = self._waiting.get()
            if n_before > 1 and item is not None:
                self._gather()
            while item is not None:
                batch.append(item)
                n_forecasts += len(item[0].forecasts)
                if n_forecasts >= _MOST:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            if batch:
                self._write(batch)
            n_before = len(batch)

    def _gather(self) -> None:
        """Wait as long as more come: where several came together, others are on their way."""
        until, n_waiting = time.monotonic() + _GATHER_SECONDS, -1
        while n_waiting < self._waiting.qsize() and time.monotonic() < until:
            n_waiting = self._waiting.qsize()
            time.sleep(_PAUSE_SECONDS)

    def _write(self, batch: "list[tuple[Entry, Future[bool]]]") -> None:
        # from here on nobody can cancel them, which would make their result an error here
        running = [(entry, written) for entry, written in batch if written.set_running_or_notify_cancel()]
        if running:
            self._write_together(running)

    def _write_together(self, batch: "list[tuple[Entry, Future[bool]]]") -> None:
        try:
            with transaction(self.engine) as connection:
                is_new = _insert(connection, [entry for entry, _ in batch])
        # whatever it is, whoever waits is told of it, and the next ones are written
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            # one of them may be to blame, or two processes that met: each by itself
            for single in batch:
                self._write_together([single])
            return
        for (_, written), one in zip(batch, is_new, strict=True):
            written.set_result(one)


def _insert(connection: Connection, entries: list[Entry]) -> list[bool]:
    """Insert entries, and say of each whether it is new."""
    plain = [_request(entry) for entry in entries if entry.idempotency_key is None]
    # in one order, so that two processes cannot wait for each other
    once = sorted((entry for entry in entries if entry.idempotency_key is not None), key=_key)
    written = {entry.request_id for entry in once if _insert_once(connection, entry)}
    is_new = [entry.idempotency_key is None or entry.request_id in written for entry in entries]
    rows = [row for entry, one in zip(entries, is_new, strict=True) if one for row in _forecasts(entry)]
    if plain:
        connection.execute(insert(REQUESTS), plain)
    if rows:
        connection.execute(insert(FORECASTS), rows)
    return is_new


def _key(entry: Entry) -> tuple[str, str]:
    return entry.client, entry.idempotency_key or ""


def _insert_once(connection: Connection, entry: Entry) -> bool:
    """Insert a request unless its idempotency key is taken; say whether it was."""
    statement = insert_or(connection, REQUESTS).values(_request(entry)).on_conflict_do_nothing()
    return bool(connection.execute(statement).rowcount)


def _request(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.request_id,
        "answered_at": entry.answered_at,
        "client": entry.client,
        "idempotency_key": entry.idempotency_key,
        "body_digest": entry.body_digest,
        "head": entry.head,
    }


def _forecasts(entry: Entry) -> list[dict[str, Any]]:
    return [
        {
            "forecast_id": forecast_id(entry.request_id, position),
            "request_id": entry.request_id,
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
