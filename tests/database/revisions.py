"""Databases at an earlier revision, filled by SQL, because the program only writes the newest tables."""

from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from forecaster.database.engine import transaction
from forecaster.database.schema import MIGRATIONS


def migrate_to(engine: Engine, revision: str) -> None:
    """Run the migrations up to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with transaction(engine) as connection:
        config.attributes["connection"] = connection
        config.attributes["version_table"] = "forecaster_version"
        command.upgrade(config, revision)


def insert(connection: Connection, table: str, **row: Any) -> None:
    """Insert a row."""
    names = ", ".join(row)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(row)})"), row)
