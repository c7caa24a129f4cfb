"""Engines and transactions: SQLite in WAL mode, which allows one writer and many readers, or Postgres by URL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError

from forecaster.database.sqlite_files import SqliteConnection, SqliteFile
from forecaster.database.uris import database_url
from forecaster.domain.errors import ConfigError, DatabaseUnavailable

# short, so that a database that is down is noticed within seconds
TIMEOUT_SECONDS = 5
# for work that no client waits for: migrations, deletions, sums over all scores
MAINTENANCE_TIMEOUT_SECONDS = 600
POSTGRES = "postgresql+pg8000"
_SQLITE_FILE = "forecaster_file"


def open_engine(url: str, timeout_seconds: float = TIMEOUT_SECONDS, *, makes_checkpoints: bool = True) -> Engine:
    """Return the engine for a database URL. It does not connect yet, and it creates no SQLite file.

    Args:
        url: `sqlite:///file.db`, whose folder is created, or `postgresql://user:password@host/database`.
        timeout_seconds: the longest a statement may take, or may wait for another writer.
        makes_checkpoints: whether a commit that fills SQLite's log makes a checkpoint; if not, a `Checkpointer` must.

    Raises:
        ConfigError: the URL names neither SQLite nor Postgres.
        DatabaseUnavailable: the folder cannot be created.
    """
    parsed = database_url(url)
    if parsed.drivername == "sqlite" and parsed.database:
        if parsed.query or parsed.database.startswith((":memory:", "file:")):
            raise ConfigError(
                f"database URL: '{url}' is not supported; write sqlite:///file.db without options, and %3F for a "
                "question mark in the name"
            )
        path = Path(parsed.database).absolute()
        _create_folder(path.parent)
        file = SqliteFile(path, timeout_seconds, makes_checkpoints)
        engine = create_engine(parsed, creator=file.connect, execution_options={_SQLITE_FILE: file})
        event.listen(engine, "checkout", _discard_if_replaced)
        return engine
    if parsed.drivername in ("postgresql", "postgres", POSTGRES):
        arguments = {"timeout": timeout_seconds}
        return create_engine(parsed.set(drivername=POSTGRES), connect_args=arguments, pool_pre_ping=True)
    raise ConfigError(
        f"database URL: '{parsed.drivername}' is not supported; write sqlite:///file.db or postgresql://…"
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction. It is committed at the end of the block, or rolled back if the block raises.

    Raises:
        DatabaseUnavailable: the database cannot be reached, read or written, or its file is no longer at its path.
    """
    try:
        with engine.begin() as connection:
            yield connection
            dbapi_connection = connection.connection.dbapi_connection
            _check_in_place(dbapi_connection)
        # if the file was replaced during the commit, the commit is lost
        _check_in_place(dbapi_connection)
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        shown = engine.url.render_as_string(hide_password=True)
        raise DatabaseUnavailable(
            f"{shown}: the database does not answer ({reason}); is it up, and is its disk full?"
        ) from error


def is_in_place(engine: Engine) -> bool:
    """Return whether a SQLite database's path still leads to the file that was opened last; True for Postgres."""
    file = engine.get_execution_options().get(_SQLITE_FILE)
    return not isinstance(file, SqliteFile) or file.is_in_place()


def insert_rows(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert at least one row; each has a value for every column."""
    if connection.dialect.name == "sqlite":
        # SQLAlchemy's conversion of parameters takes longer than SQLite's insert, and SQLite needs none
        statement, values = _sqlite_insert(table)
        connection.exec_driver_sql(statement, [values(row) for row in rows])
    else:
        _execute_many(connection, table, insert(table), rows)


@cache
def _sqlite_insert(table: Table) -> tuple[str, Callable[[dict[str, Any]], tuple[Any, ...]]]:
    """Return the statement that inserts a row, and what returns a row's values in the statement's order."""
    names = [column.name for column in table.columns]
    return str(insert(table).compile(dialect=sqlite.dialect())), itemgetter(*names)


def upsert_rows(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert at least one row; a row whose primary key exists replaces the existing row."""
    statement = dialect_insert(connection, table)
    values = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    keys = list(table.primary_key)
    _execute_many(connection, table, statement.on_conflict_do_update(index_elements=keys, set_=values), rows)


def _execute_many(connection: Connection, table: Table, statement: Any, rows: list[dict[str, Any]]) -> None:
    if connection.dialect.name == "postgresql":
        # without RETURNING, pg8000 sends the rows one at a time, which takes seven times as long
        statement = statement.returning(*table.primary_key)
    connection.execute(statement, rows)


def dialect_insert(connection: Connection, table: Table) -> Any:
    """Return the database's own insert statement, which has the `on_conflict_…` methods."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name](table)


def _check_in_place(dbapi_connection: Any) -> None:
    if isinstance(dbapi_connection, SqliteConnection):
        dbapi_connection.check_in_place()


def _discard_if_replaced(dbapi_connection: SqliteConnection, record: Any, proxy: Any) -> None:
    if not dbapi_connection.is_in_place():
        # the pool closes this connection and opens a new one
        raise DisconnectionError


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(f"{folder}: the database's folder cannot be created ({error})") from error
