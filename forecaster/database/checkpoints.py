"""Checkpoints of a SQLite database's log by a thread of their own.

A checkpoint copies the log into the database and waits for the disk. By default SQLite makes it in the commit that
fills the log, and every request that waits for this commit waits for the disk too.
"""

import logging
import threading
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from forecaster.domain.errors import DatabaseUnavailable

# a longer log is truncated, which briefly keeps others from writing: 16 MB
MAX_LOG_PAGES = 4096
_INTERVAL_SECONDS = 1
_log = logging.getLogger("forecaster.database")


@dataclass
class Checkpointer:
    """Makes checkpoints until it is stopped; does nothing on Postgres.

    Args:
        engine: of the database, whose statements fail instead of waiting for others.
    """

    engine: Engine
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the thread."""
        if self.engine.dialect.name == "sqlite":
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _work(self) -> None:
        while not self._stopped.wait(_INTERVAL_SECONDS):
            try:
                with self.engine.connect() as connection:
                    checkpoint = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
                    _, n_pages, _ = checkpoint.one()
                    if n_pages > MAX_LOG_PAGES:
                        # under steady load the log would grow for ever; fails while others read or write
                        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            # the next attempt may succeed
            except (SQLAlchemyError, DatabaseUnavailable, OSError) as error:
                _log.debug("no checkpoint: %s", error)
