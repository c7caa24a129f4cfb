"""A SQLite database's file: readable by its owner alone, and noticed when it is replaced or deleted while open.

SQLite goes on writing to a file that has lost its name, and a commit there is lost. So each connection remembers which
files it opened (device and inode of the database, its log and the log's index), and they are compared with what is at
the path before and after each commit.
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

# what SQLite keeps beside a database in WAL mode
_LOGS = ("-wal", "-shm")
_OWNER_ONLY = 0o600
# while others cannot open theirs
_OPEN_SECONDS = 5
_log = logging.getLogger(__name__)
# of this process, whichever engine they belong to
_OPEN: "weakref.WeakSet[FileConnection]" = weakref.WeakSet()
_OPENING = threading.Lock()
# device and inode; None where there is no such file
_Identity = tuple[int, int] | None


class FileConnection(sqlite3.Connection):
    """A connection that knows which files it opened."""

    path: Path
    log_paths: tuple[Path, ...]
    main: _Identity = None
    logs: tuple[_Identity, ...] = ()
    is_closed = False

    def is_in_place(self) -> bool:
        """Say whether the files that it opened are still those at its path, and the database is not emptied."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        # the last that is closed removes the logs
        has_logs = self.is_closed or self.logs == _identities(self.log_paths)
        return has_logs and found.st_size > 0 and self.main == (found.st_dev, found.st_ino)

    def refuse_replaced(self) -> None:
        """Raise DatabaseUnavailable where the files that it opened are no longer those at its path."""
        if not self.is_in_place():
            raise DatabaseUnavailable(f"{self.path}: the database was replaced or deleted while it was open")

    def close(self) -> None:
        """Close it."""
        _OPEN.discard(self)
        self.is_closed = True
        super().close()


@dataclass
class DatabaseFile:
    """The file of one engine.

    Args:
        path: absolute.
        patience_seconds: how long a connection waits for another's write.
    """

    path: Path
    patience_seconds: float
    _last: FileConnection | None = field(default=None, init=False)
    # the database's own number, as `mark` gives it; None until it has one
    _mark: int | None = field(default=None, init=False)

    def open(self) -> FileConnection:
        """Return a new connection.

        Raises:
            DatabaseUnavailable: there is no database, or another than this engine began with.
            sqlite3.Error: it cannot be read.
        """
        with _OPENING:
            main, log_paths = _identity(self.path), _log_paths(self.path)
            if main is None:
                raise DatabaseUnavailable(f"{self.path}: the database is not there; put it back, or restart")
            if not self.path.is_file():
                # nothing is taken away from a folder or a device that was named by mistake
                raise DatabaseUnavailable(f"{self.path}: is no file; correct the database's URL")
            if any(one.main == main and one.logs != _identities(log_paths) for one in _OPEN):
                # SQLite would read a new log by the index of the old one
                raise DatabaseUnavailable(f"{self.path}: its log was removed while it is open; try again, or restart")
            if self._last is not None:
                self._make_way(self._last, main)
            for path in (self.path, *log_paths):
                _make_private(path)
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw",
                uri=True,
                timeout=_OPEN_SECONDS,
                check_same_thread=False,
                factory=FileConnection,
            )
            try:
                self._set_up(connection)
            except BaseException:
                connection.close()
                raise
            self._last = connection
            _OPEN.add(connection)
            return connection

    def is_in_place(self) -> bool:
        """Say whether the files that were opened last are still those at the path; yes before any was."""
        return self._last is None or self._last.is_in_place()

    def _make_way(self, last: FileConnection, main: _Identity) -> None:
        """Prepare to open a file that may have taken the place of the one that was open before."""
        if not self.path.stat().st_size:
            raise DatabaseUnavailable(f"{self.path}: an empty file is where the database was; put it back, or restart")
        if last.main == main:
            return
        _log.warning("%s was replaced; it is opened again", self.path)
        log_paths = _log_paths(self.path)
        with FileLock(self.path.with_name(f"{self.path.name}-replaced.lock")):
            if _identities(log_paths) == last.logs:
                # SQLite would play the log of the file before into this one
                for path in log_paths:
                    aside = path.rename(path.with_name(f"{path.name}.replaced-{time.time_ns()}"))
                    _log.warning("%s is of the database that was there before", aside)

    def _set_up(self, connection: FileConnection) -> None:
        cursor = connection.cursor()
        (mark,) = cursor.execute("PRAGMA user_version").fetchone()
        if self._mark is not None and mark != self._mark:
            raise DatabaseUnavailable(
                f"{self.path}: another database is where the one that was open before was; put that back, or restart"
            )
        self._mark = mark or None
        # in WAL mode a commit survives the end of the process, killed or not; one may be lost when the power fails
        _enter_wal(cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")
        # the log is made by the first read
        cursor.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        cursor.execute(f"PRAGMA busy_timeout = {int(self.patience_seconds * 1000)}")
        cursor.close()
        connection.path, connection.log_paths = self.path, _log_paths(self.path)
        connection.main, connection.logs = _identity(self.path), _identities(connection.log_paths)


def make_file(path: Path) -> None:
    """Make an empty file for a database, which only its owner can read, unless there is one.

    Raises:
        DatabaseUnavailable: it cannot be made, or there is the log of another.
    """
    try:
        real = path.resolve()
        log, _ = _log_paths(real)
        if _size(log) and not _size(real):
            # SQLite would remove it, perhaps from under a service, and with it the last commits
            raise DatabaseUnavailable(
                f"{path}: the database is gone, and its log {log.name} holds the last commits; put it back, or move "
                "the log away to begin a new one"
            )
        with suppress(FileExistsError):
            # before SQLite does, which would leave it open to others for a moment
            os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY))
    except (OSError, RuntimeError) as error:
        raise DatabaseUnavailable(f"{path}: the database cannot be made ({error})") from error


def _make_private(path: Path) -> None:
    """Take away what others than its owner may do with a file, if it is there."""
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
    # SQLite puts them beside the file that links lead to
    real = path.resolve()
    return tuple(real.with_name(real.name + end) for end in _LOGS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _identities(paths: tuple[Path, ...]) -> tuple[_Identity, ...]:
    return tuple(_identity(path) for path in paths)


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    """Change the file's mode, once in its life; for that SQLite does not wait for others by itself."""
    until = time.monotonic() + _OPEN_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
