"""SQLite files: private to their owner, and noticed when they are replaced or deleted while open.

SQLite keeps writing to a file that was deleted or renamed, and those commits are lost. So each connection remembers the
device and inode of the database, its log (`-wal`) and the log's index (`-shm`), and compares them with the files at the
path before and after each commit.
"""

import logging
import os
import sqlite3
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from forecaster.domain.errors import DatabaseUnavailable

# the files that SQLite keeps beside a database in WAL mode
_LOG_SUFFIXES = ("-wal", "-shm")
_OWNER_ONLY = 0o600
# short, because no other thread can open a connection meanwhile
_CONNECT_TIMEOUT_SECONDS = 5
_log = logging.getLogger(__name__)
# the open connections of this process, of all engines; a WeakSet cannot be iterated while a thread closes one
_CONNECTIONS: "set[weakref.ref[SqliteConnection]]" = set()
_CONNECT_LOCK = threading.Lock()
# device and inode; None if the file does not exist
_Identity = tuple[int, int] | None


class SqliteConnection(sqlite3.Connection):
    """A connection that remembers which files it opened."""

    path: Path
    log_paths: tuple[Path, ...]
    main: _Identity = None
    logs: tuple[_Identity, ...] = ()
    is_closed = False

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the opened files, and the database is not empty."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        # the last connection to close removes the logs
        has_logs = self.is_closed or self.logs == _identities(self.log_paths)
        return has_logs and found.st_size > 0 and self.main == (found.st_dev, found.st_ino)

    def check_in_place(self) -> None:
        """Raise DatabaseUnavailable if the path no longer leads to the opened files."""
        if not self.is_in_place():
            raise DatabaseUnavailable(f"{self.path}: the database was replaced or deleted while it was open")

    def close(self) -> None:
        """Close the connection, and stop counting it as open."""
        _CONNECTIONS.discard(weakref.ref(self))
        self.is_closed = True
        super().close()


@dataclass
class SqliteFile:
    """The database file of an engine.

    Args:
        path: absolute.
        timeout_seconds: how long a statement waits for another writer.
        makes_checkpoints: whether a commit that fills the log makes a checkpoint.
    """

    path: Path
    timeout_seconds: float
    makes_checkpoints: bool = True
    _last: SqliteConnection | None = field(default=None, init=False)
    # the random `user_version` that the first migration wrote; None before that
    _database_id: int | None = field(default=None, init=False)

    def connect(self) -> SqliteConnection:
        """Return a new connection.

        Raises:
            DatabaseUnavailable: the file does not exist, or holds another database than this engine opened first.
            sqlite3.Error: the file cannot be read.
        """
        with _CONNECT_LOCK:
            # one look at the file, which may be replaced at any moment
            found, log_paths = _status(self.path), _log_paths(self.path)
            if found is None:
                raise DatabaseUnavailable(f"{self.path}: the database is not there; put it back, or restart")
            if not self.path.is_file():
                # so that the permissions of a folder or device named by mistake are not changed below
                raise DatabaseUnavailable(f"{self.path}: is not a file; correct the database's URL")
            main = (found.st_dev, found.st_ino)
            others = [other for reference in _CONNECTIONS.copy() if (other := reference())]
            if any(other.main == main and other.logs != _identities(log_paths) for other in others):
                # SQLite would read a new log with the index of the old one
                raise DatabaseUnavailable(
                    f"{self.path}: its log was removed while the database is open; try again, or restart"
                )
            if self._last is not None:
                self._prepare_reopening(self._last, main, found.st_size)
            for path in (self.path, *log_paths):
                _make_private(path)
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw",
                uri=True,
                timeout=_CONNECT_TIMEOUT_SECONDS,
                check_same_thread=False,
                factory=SqliteConnection,
            )
            try:
                self._set_up(connection)
                if connection.main != main:
                    raise DatabaseUnavailable(f"{self.path}: the database was replaced while it was opened; try again")
            except BaseException:
                connection.close()
                raise
            self._last = connection
            _CONNECTIONS.add(weakref.ref(connection, _CONNECTIONS.discard))
            return connection

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the files that were opened last; True if none was opened yet."""
        return self._last is None or self._last.is_in_place()

    def _prepare_reopening(self, last: SqliteConnection, main: _Identity, size: int) -> None:
        """Refuse an empty file; if the file is a new one, move the log of the old one aside."""
        if not size:
            raise DatabaseUnavailable(
                f"{self.path}: the database was replaced by an empty file; put the database back, or restart"
            )
        if last.main == main:
            return
        _log.warning("%s was replaced; opening the new file", self.path)
        log_paths = _log_paths(self.path)
        with FileLock(self.path.with_name(f"{self.path.name}-replaced.lock")):
            if _identity(self.path) == main and _identities(log_paths) == last.logs:
                # SQLite would apply the old database's log to the new one
                for path in log_paths:
                    aside = path.rename(path.with_name(f"{path.name}.replaced-{time.time_ns()}"))
                    _log.warning("moved the log of the replaced database to %s", aside)

    def _set_up(self, connection: SqliteConnection) -> None:
        cursor = connection.cursor()
        (database_id,) = cursor.execute("PRAGMA user_version").fetchone()
        if self._database_id is not None and database_id != self._database_id:
            raise DatabaseUnavailable(
                f"{self.path}: the database was replaced by another database; put the first one back, or restart"
            )
        self._database_id = database_id or None
        # in WAL mode a commit survives a killed process; the last commits may be lost in a power failure
        _enter_wal_mode(cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")
        if not self.makes_checkpoints:
            cursor.execute("PRAGMA wal_autocheckpoint=0")
        # the first read creates the log
        cursor.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        cursor.execute(f"PRAGMA busy_timeout = {int(self.timeout_seconds * 1000)}")
        cursor.close()
        connection.path, connection.log_paths = self.path, _log_paths(self.path)
        connection.main, connection.logs = _identity(self.path), _identities(connection.log_paths)


def create_sqlite_file(path: Path) -> None:
    """Create an empty file that only its owner can read, unless the file exists.

    Raises:
        DatabaseUnavailable: the file cannot be created, or the log of a deleted database lies beside it.
    """
    try:
        real = path.resolve()
        log, _ = _log_paths(real)
        if _size(log) and not _size(real):
            # SQLite would delete the log, perhaps while a service uses it, and the last commits with it
            raise DatabaseUnavailable(
                f"{path}: the database is gone, and its log {log.name} holds the last commits; put it back, or move "
                "the log away to begin a new one"
            )
        with suppress(FileExistsError):
            # SQLite would create the file readable by others for a moment
            os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY))
    except (OSError, RuntimeError) as error:
        raise DatabaseUnavailable(f"{path}: the database cannot be created ({error})") from error


def _make_private(path: Path) -> None:
    """Remove the permissions of everyone but the owner from a file, if it exists."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode & 0o777
        if not mode & ~_OWNER_ONLY:
            return
        try:
            path.chmod(mode & _OWNER_ONLY)
        except PermissionError as error:
            raise DatabaseUnavailable(
                f"{path}: others may read it, and this account may not change that; run chmod 600 on it"
            ) from error


def _log_paths(path: Path) -> tuple[Path, ...]:
    # SQLite follows links and keeps the logs beside the target
    real = path.resolve()
    return tuple(real.with_name(real.name + suffix) for suffix in _LOG_SUFFIXES)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _identity(path: Path) -> _Identity:
    found = _status(path)
    return (found.st_dev, found.st_ino) if found else None


def _identities(paths: tuple[Path, ...]) -> tuple[_Identity, ...]:
    return tuple(_identity(path) for path in paths)


def _enter_wal_mode(cursor: sqlite3.Cursor) -> None:
    """Switch the file to WAL mode, which happens once; SQLite itself does not wait for other connections here."""
    deadline = time.monotonic() + _CONNECT_TIMEOUT_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
