"""Exclusive locks between processes: MLflow has no compare-and-set, so concurrent writers would undo each other."""

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
from forecaster.database.uris import database_url, mask_password, sqlite_file, without_password
from forecaster.domain.errors import StoreUnavailable

# the pool would log a traceback for a lost connection, which raises StoreUnavailable anyway
_POOL_NAME = "locks"
logging.getLogger(f"sqlalchemy.pool.impl.NullPool.{_POOL_NAME}").setLevel(logging.CRITICAL)
# raises StoreUnavailable if the lock was lost
LockCheck = Callable[[], None]


@contextmanager
def exclusive_lock(uri: str, subject: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[LockCheck]:
    """Hold a lock on a subject of a store, such as a model's aliases; wait while another process holds it.

    For Postgres this is an advisory lock of the database, which all machines respect. For an HTTP server it is one of
    the Postgres database in `FORECASTER_DATABASE_URL`. Otherwise it is a lock file, beside the SQLite file or in the
    folder for temporary files, which only the processes of this machine respect.

    Args:
        uri: MLflow's tracking URI, or a database URL.
        subject: what is locked.
        on_wait: called if another process holds the lock.

    Yields:
        a function that raises StoreUnavailable if the lock was lost, for example because Postgres was restarted:
        another process may hold it then.

    Raises:
        StoreUnavailable: the lock cannot be acquired.
    """
    database = _lock_database(uri)
    # databases and lock files are separate by themselves, however the URI is spelled; servers share one database
    digest = hashlib.sha256(f"{uri if uri.startswith('http') else ''} {subject}".encode()).digest()
    if database is not None:
        with _advisory_lock(database, int.from_bytes(digest[:8], "big", signed=True), on_wait) as check:
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
    """Connect to a Postgres store once, because MLflow retries for minutes; do nothing for other URIs.

    Raises:
        StoreUnavailable: Postgres does not accept the connection within seconds.
    """
    if uri.startswith("postgresql"):
        with _translated_errors(uri):
            _connect(uri, timeout=TIMEOUT_SECONDS).close()


def _lock_database(uri: str) -> str | None:
    """Return the URL of the Postgres database that holds a store's locks; None if files do."""
    service_database = os.environ.get("FORECASTER_DATABASE_URL", "")
    if uri.startswith("http") and service_database.startswith("postgres"):
        return database_url(service_database).set(drivername=POSTGRES).render_as_string(hide_password=False)
    return uri if uri.startswith("postgresql") else None


@contextmanager
def _advisory_lock(uri: str, key: int, on_wait: Callable[[], None]) -> Iterator[LockCheck]:
    """Hold an advisory lock. Postgres releases it when the connection ends, also if the process is killed."""
    with _translated_errors(uri):
        connection = _connect(uri)
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar_one():
            on_wait()
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})

    def check() -> None:
        with _translated_errors(uri):
            # the lock is held as long as its connection works
            connection.execute(text("SELECT 1"))

    # in autocommit mode, closing a lost connection raises nothing that could hide an error of the block
    with connection:
        yield check


def _connect(uri: str, **arguments: object) -> Connection:
    return create_engine(
        database_url(uri),
        poolclass=NullPool,
        pool_logging_name=_POOL_NAME,
        isolation_level="AUTOCOMMIT",
        connect_args=arguments,
    ).connect()


@contextmanager
def _translated_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"{without_password(uri)}: needs {error.name}; write postgresql+pg8000://…") from error
    except SQLAlchemyError as error:
        reason = mask_password(str(error).splitlines()[0], uri)
        raise StoreUnavailable(
            f"{without_password(uri)}: the database does not answer ({reason}); is it up?"
        ) from error
