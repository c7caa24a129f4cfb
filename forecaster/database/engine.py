"""The engine: SQLite in WAL mode, which one writer and many readers share, or Postgres by URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError

from forecaster.database.files import DatabaseFile, FileConnection
from forecaster.database.uris import database_url
from forecaster.domain.errors import ConfigError, DatabaseUnavailable

# a database that does not answer is noticed in seconds
TIMEOUT_SECONDS = 5
# of what nobody waits for: migrations, deletions, sums over all scores
UPKEEP_SECONDS = 600
POSTGRES = "postgresql+pg8000"
_FILE = "forecaster_file"


def open_engine(url: str, patience_seconds: float = TIMEOUT_SECONDS) -> Engine:
    """Return the engine for a database's URL; nothing is connected to yet, and no SQLite file is made.

    Args:
        url: `sqlite:///file.db`, whose folder is made, or `postgresql://user:password@host/database`.
        patience_seconds: how long one statement, or the wait for another's write, may take.

    Raises:
        ConfigError: the URL is of neither kind.
        DatabaseUnavailable: the folder cannot be made.
    """
    parsed = database_url(url)
    if parsed.drivername == "sqlite" and parsed.database:
        if parsed.query or parsed.database.startswith((":memory:", "file:")):
            raise ConfigError(
                f"database URL: '{url}' is not taken; write sqlite:///file.db, without ?…, a question mark as %3F"
            )
        path = Path(parsed.database).absolute()
        _make_folder(path.parent)
        file = DatabaseFile(path, patience_seconds)
        engine = create_engine(parsed, creator=file.open, execution_options={_FILE: file})
        event.listen(engine, "checkout", _reopen_replaced)
        return engine
    if parsed.drivername in ("postgresql", "postgres", POSTGRES):
        arguments = {"timeout": patience_seconds}
        return create_engine(parsed.set(drivername=POSTGRES), connect_args=arguments, pool_pre_ping=True)
    raise ConfigError(f"database URL: '{parsed.drivername}' is not taken; write sqlite:///file.db or postgresql://…")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that is committed at the end, or undone.

    Raises:
        DatabaseUnavailable: the database cannot be reached, read or written, or its file is no longer at its path.
    """
    try:
        with engine.begin() as connection:
            yield connection
            opened = connection.connection.dbapi_connection
            _refuse_replaced(opened)
        # a file that was replaced meanwhile took the commit with it
        _refuse_replaced(opened)
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        shown = engine.url.render_as_string(hide_password=True)
        raise DatabaseUnavailable(
            f"{shown}: the database does not answer ({reason}); is it up, and is its disk full?"
        ) from error


def is_in_place(engine: Engine) -> bool:
    """Say whether a SQLite database is still the file that was opened last; of others, yes."""
    file = engine.get_execution_options().get(_FILE)
    return not isinstance(file, DatabaseFile) or file.is_in_place()


def insert_all(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, of which there is at least one."""
    _execute_all(connection, table, insert(table), rows)


def upsert_all(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, of which there is at least one, or replace those that have their primary keys."""
    statement = insert_or(connection, table)
    others = {one.name: statement.excluded[one.name] for one in table.columns if not one.primary_key}
    keys = list(table.primary_key)
    _execute_all(connection, table, statement.on_conflict_do_update(index_elements=keys, set_=others), rows)


def _execute_all(connection: Connection, table: Table, statement: Any, rows: list[dict[str, Any]]) -> None:
    if connection.dialect.name == "postgresql":
        # its driver sends row by row what asks for no answer, which takes seven times as long
        statement = statement.returning(*table.primary_key)
    connection.execute(statement, rows)


def insert_or(connection: Connection, table: Table) -> Any:
    """Return an insert statement that can say what to do on a conflict, which each database spells its own way."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name](table)


def _refuse_replaced(opened: Any) -> None:
    if isinstance(opened, FileConnection):
        opened.refuse_replaced()


def _reopen_replaced(opened: FileConnection, record: Any, fairy: Any) -> None:
    if not opened.is_in_place():
        # the pool closes it and opens another
        raise DisconnectionError


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(f"{folder}: the database's folder cannot be made ({error})") from error
