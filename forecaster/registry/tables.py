"""The tables of MLflow's database, which a newer MLflow refuses to use until its own migrations have been run."""

from forecaster.database.locks import check_reachable, exclusive_lock
from forecaster.database.uris import sqlite_file, without_password
from forecaster.domain.errors import StoreUnavailable


def migrate_tables(uri: str) -> str | None:
    """Run the migrations that a store's database lacks, all of them on an empty one; done again, nothing changes.

    Args:
        uri: MLflow's tracking URI.

    Returns:
        the revision that the database has now; None where there is nothing to migrate: a server looks after its own,
        and a SQLite file that is not there is made by the first training.

    Raises:
        StoreUnavailable: it cannot be reached or written, or is of a newer MLflow.
    """
    file = sqlite_file(uri)
    is_database = file.is_file() if file else uri.startswith("postgres")
    if not is_database:
        return None
    check_reachable(uri)
    # heavy, and nobody else needs them
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError
    from mlflow.db import upgrade
    from mlflow.exceptions import MlflowException
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with exclusive_lock(uri, "tables"):
            # what `mlflow db upgrade` does, without the password among a process' arguments
            upgrade.callback(uri)
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except (CommandError, MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreUnavailable(
            f"{without_password(uri)}: MLflow's tables cannot be brought up to date ({str(error).splitlines()[0]}); "
            "put back the backup, or where they are of a newer MLflow update this program"
        ) from error
