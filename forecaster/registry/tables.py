"""Migrate the tables of MLflow's database. A newer MLflow refuses to use them before that."""

from forecaster.database.locks import check_reachable, exclusive_lock
from forecaster.database.uris import mask_password, sqlite_file, without_password
from forecaster.domain.errors import StoreUnavailable


def migrate_tables(uri: str) -> str | None:
    """Run the migrations that a store's database lacks; running them again changes nothing.

    Args:
        uri: MLflow's tracking URI.

    Returns:
        The revision that the database has now. None if there is nothing to migrate: a server migrates its own database,
        and the first training creates a missing SQLite file.

    Raises:
        StoreUnavailable: the database cannot be reached or written, or belongs to a newer MLflow.
    """
    file = sqlite_file(uri)
    is_database = file.is_file() if file else uri.startswith("postgres")
    if not is_database:
        return None
    check_reachable(uri)
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError
    from mlflow.db import upgrade
    from mlflow.exceptions import MlflowException
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with exclusive_lock(uri, "tables"):
            # what `mlflow db upgrade` does, without the password in a process's arguments
            upgrade.callback(uri)
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except (CommandError, MlflowException, SQLAlchemyError, OSError) as error:
        reason = mask_password(str(error).splitlines()[0], uri)
        raise StoreUnavailable(
            f"{without_password(uri)}: MLflow's tables cannot be migrated ({reason}); "
            "restore the backup, or if the tables belong to a newer MLflow, update this program"
        ) from error
