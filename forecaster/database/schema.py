"""Upgrade a database's tables with Alembic's migrations, one process at a time."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, inspect, text

from forecaster.database.engine import MAINTENANCE_TIMEOUT_SECONDS, open_engine, transaction
from forecaster.database.locks import exclusive_lock
from forecaster.database.sqlite_files import create_sqlite_file
from forecaster.domain.errors import DatabaseUnavailable

MIGRATIONS = Path(__file__).with_name("migrations")
# the newest migration; a test compares it
REVISION = "0005"
_VERSION_TABLE = "forecaster_version"


def upgrade_schema(engine: Engine) -> None:
    """Run the migrations that a database lacks; create a SQLite file that does not exist.

    Raises:
        DatabaseUnavailable: the database cannot be reached or written, or was migrated by a newer version of this
            program.
    """
    if engine.dialect.name == "sqlite":
        create_sqlite_file(Path(engine.url.database or ""))
    if _revision(engine) == REVISION:
        return
    with exclusive_lock(engine.url.render_as_string(hide_password=False), "tables"):
        revision = _revision(engine)
        if revision is not None and revision > REVISION:
            raise DatabaseUnavailable(
                f"the database has revision {revision}, this program supports {REVISION}; update the program"
            )
        if revision != REVISION:
            _migrate(engine)


@contextmanager
def open_database(url: str) -> Iterator[Engine]:
    """Open a database for maintenance work that may take long; upgrade its tables first, and close it at the end.

    Args:
        url: as in `open_engine`.

    Raises:
        ConfigError, DatabaseUnavailable: as in `open_engine` and `upgrade_schema`.
    """
    engine = open_engine(url, MAINTENANCE_TIMEOUT_SECONDS)
    try:
        upgrade_schema(engine)
        yield engine
    finally:
        engine.dispose()


def _revision(engine: Engine) -> str | None:
    with transaction(engine) as connection:
        if not inspect(connection).has_table(_VERSION_TABLE):
            return None
        return connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()  # noqa: S608


def _migrate(engine: Engine) -> None:
    # imported here because most processes never migrate
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with transaction(engine) as connection:
        if engine.dialect.name == "sqlite":
            # the driver does not begin a transaction before CREATE TABLE: a killed process would leave some tables
            connection.detach()
            connection.connection.dbapi_connection.isolation_level = None  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            # a random id, by which a replaced file is recognized
            if not connection.exec_driver_sql("PRAGMA user_version").scalar():
                connection.exec_driver_sql(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 1)}")
        config.attributes["connection"] = connection
        config.attributes["version_table"] = _VERSION_TABLE
        command.upgrade(config, "head")
    # new connections read the id
    engine.dispose()
