"""One writer at a time: MLflow has no compare-and-set, and concurrent writes undo each other."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from forecaster.database.engine import POSTGRES, TIMEOUT_SECONDS
from forecaster.database.uris import database_url, sqlite_file, without_password
from forecaster.domain.errors import StoreUnavailable

# a connection that is lost is told of by an error of ours, not by a traceback of the pool's
_QUIET = "turns"
logging.getLogger(f"sqlalchemy.pool.impl.NullPool.{_QUIET}").setLevel(logging.CRITICAL)
# whether a turn is still held; raises StoreUnavailable where it was lost
Check = Callable[[], None]


@contextmanager
def one_at_a_time(uri: str, subject: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[Check]:
    """Hold a subject, such as a model's aliases, for this process; whoever comes second waits.

    Args:
        uri: MLflow's tracking URI. On Postgres the database itself keeps the turn, for whatever machine asks; for an
            HTTP server, which keeps none, the Postgres of `FORECASTER_DATABASE_URL` does. Else a lock lies beside the
            SQLite file, or in the folder for temporary files, and only this machine's processes are kept apart.
        subject: what is held.
        on_wait: called where somebody else holds it.

    Yields:
        What raises where the turn was lost, as where Postgres is started again: somebody else may have it then.

    Raises:
        StoreUnavailable: the turn cannot be had.
    """
    database = _turns_of(uri)
    # a database's turns are its own, and so is a lock beside a file: however the URI is spelt
    digest = hashlib.sha256(f"{uri if uri.startswith('http') else ''} {subject}".encode()).digest()
    if database is not None:
        with _held_in_database(database, int.from_bytes(digest[:8], "big", signed=True), on_wait) as check:
            yield check
        return
    file = sqlite_file(uri)
    beside = file.resolve() if file else Path(tempfile.gettempdir(), "forecaster")
    lock = FileLock(beside.with_name(f"{beside.name}-{digest.hex()[:16]}.lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
    except OSError as error:
        raise StoreUnavailable(
            f"{without_password(uri)}: its lock cannot be written ({error}); check its permissions"
        ) from error
    try:
        yield lambda: None
    finally:
        lock.release()


def check_reachable(uri: str) -> None:
    """Ask a Postgres whether it is there, which MLflow does not say for minutes; other URIs are taken as they are.

    Raises:
        StoreUnavailable: it does not let us in within seconds.
    """
    if uri.startswith("postgresql"):
        with _answering(uri):
            _connect(uri, timeout=TIMEOUT_SECONDS).close()


def _turns_of(uri: str) -> str | None:
    """Return the Postgres that keeps the turns of a store: itself, or for a server the service's own."""
    beside = os.environ.get("FORECASTER_DATABASE_URL", "")
    if uri.startswith("http") and beside.startswith("postgres"):
        return database_url(beside).set(drivername=POSTGRES).render_as_string(hide_password=False)
    return uri if uri.startswith("postgresql") else None


@contextmanager
def _held_in_database(uri: str, key: int, on_wait: Callable[[], None]) -> Iterator[Check]:
    """Hold an advisory lock; a process that dies gives it back with its connection."""
    with _answering(uri):
        connection = _connect(uri)
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar_one():
            on_wait()
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})

    def check() -> None:
        with _answering(uri):
            # the lock lives as long as its connection
            connection.execute(text("SELECT 1"))

    # no transaction is open, so that the end of a connection that was lost hides nothing
    with connection:
        yield check


def _connect(uri: str, **arguments: object) -> Connection:
    return create_engine(
        database_url(uri),
        poolclass=NullPool,
        pool_logging_name=_QUIET,
        isolation_level="AUTOCOMMIT",
        connect_args=arguments,
    ).connect()


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"{without_password(uri)}: needs {error.name}; write postgresql+pg8000://…") from error
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise StoreUnavailable(
            f"{without_password(uri)}: the database does not answer ({reason}); is it up?"
        ) from error
