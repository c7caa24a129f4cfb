"""Bring a database's tables up to date, by Alembic's migrations; one process at a time."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, inspect, text

from forecaster.database.engine import UPKEEP_SECONDS, open_engine, transaction
from forecaster.database.files import make_file
from forecaster.database.locks import one_at_a_time
from forecaster.domain.errors import DatabaseUnavailable

MIGRATIONS = Path(__file__).with_name("migrations")
# the newest migration; a test holds it to that
REVISION = "0004"
_VERSION_TABLE = "forecaster_version"


def bring_up_to_date(engine: Engine) -> None:
    """Run the migrations that a database lacks, all of them on an empty one; a SQLite file is made if need be.

    Raises:
        DatabaseUnavailable: it cannot be reached or written, or is of a newer version of this program.
    """
    if engine.dialect.name == "sqlite":
        make_file(Path(engine.url.database or ""))
    if _revision(engine) == REVISION:
        return
    with one_at_a_time(engine.url.render_as_string(hide_password=False), "tables"):
        found = _revision(engine)
        if found is not None and found > REVISION:
            raise DatabaseUnavailable(f"the database has revision {found}, this program knows {REVISION}; update it")
        if found != REVISION:
            _migrate(engine)


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """Open a database for one piece of work that may take its time, its tables up to date; then let go of it.

    Args:
        url: as `open_engine` takes it.

    Raises:
        ConfigError, DatabaseUnavailable: as `open_engine` and `bring_up_to_date` say.
    """
    engine = open_engine(url, UPKEEP_SECONDS)
    try:
        bring_up_to_date(engine)
        yield engine
    finally:
        engine.dispose()


def _revision(engine: Engine) -> str | None:
    with transaction(engine) as connection:
        if not inspect(connection).has_table(_VERSION_TABLE):
            return None
        return connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()  # noqa: S608


def _migrate(engine: Engine) -> None:
    # needed once in a database's life
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with transaction(engine) as connection:
        if engine.dialect.name == "sqlite":
            # its driver begins nothing before a CREATE TABLE: a kill would leave tables of no revision
            connection.detach()
            connection.connection.dbapi_connection.isolation_level = None  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            # by which the file is known again when it was replaced
            if not connection.exec_driver_sql("PRAGMA user_version").scalar():
                connection.exec_driver_sql(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 1)}")
        config.attributes["connection"] = connection
        config.attributes["version_table"] = _VERSION_TABLE
        command.upgrade(config, "head")
    # connections from now on know what they are of
    engine.dispose()
