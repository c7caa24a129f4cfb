"""The schema: migrations create the tables on SQLite and on Postgres; errors hide passwords."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from forecaster.database.engine import open_engine, transaction
from forecaster.database.retraining import request_retraining
from forecaster.database.schema import MIGRATIONS, REVISION, upgrade_schema
from forecaster.database.tables import METADATA
from forecaster.domain.errors import ConfigError, DatabaseUnavailable
from tests.postgres import fresh_database


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    is_local = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/new folder/s.db" if is_local else fresh_database(request.getfixturevalue("postgres"))
    engine = open_engine(url)
    yield engine
    engine.dispose()


def test_concurrent_upgrades_create_the_tables_once(engine: Engine) -> None:
    failures: list[BaseException] = []

    def upgrade() -> None:
        own = open_engine(engine.url.render_as_string(hide_password=False))
        try:
            upgrade_schema(own)
        except BaseException as error:
            failures.append(error)
        own.dispose()

    threads = [threading.Thread(target=upgrade) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "forecaster_version"})
        assert compare_metadata(context, METADATA) == []
        assert set(METADATA.tables) <= set(inspect(connection).get_table_names())


def test_an_interrupted_migration_leaves_no_tables(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    create_table = Operations.create_table

    def interrupted(operations: Operations, name: str, *columns: Any, **options: Any) -> Any:
        if name == "jobs":
            raise KeyboardInterrupt
        return create_table(operations, name, *columns, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Operations, "create_table", interrupted)
        upgrade_schema(engine)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    upgrade_schema(engine)
    assert request_retraining(engine, "sine", "why")


def test_only_one_of_many_concurrent_retraining_requests_is_made(engine: Engine) -> None:
    upgrade_schema(engine)
    made: list[bool] = []

    def request() -> None:
        own = open_engine(engine.url.render_as_string(hide_password=False))
        made.append(request_retraining(own, "sine", "drift"))
        own.dispose()

    threads = [threading.Thread(target=request) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 5 + [True]
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM jobs")).scalar() == 1


def test_revision_is_that_of_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == REVISION


def test_a_database_of_a_newer_program_is_refused(engine: Engine) -> None:
    upgrade_schema(engine)
    with transaction(engine) as connection:
        connection.execute(text("UPDATE forecaster_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnavailable, match=f"revision 9999, this program knows {REVISION}; update the program"):
        upgrade_schema(engine)


def test_an_error_rolls_the_transaction_back_and_hides_the_password(postgres: str) -> None:
    engine = open_engine(fresh_database(postgres))
    with pytest.raises(DatabaseUnavailable, match="does not answer") as caught, transaction(engine) as connection:
        connection.execute(text("CREATE TABLE new_table (number INTEGER)"))
        connection.execute(text("SELECT nothing FROM nowhere"))
    assert "p%40ss" not in str(caught.value)
    with engine.connect() as connection:
        assert not inspect(connection).has_table("new_table")
    engine.dispose()


def test_other_databases_and_unusable_folders_are_refused(tmp_path: Path) -> None:
    for url in ("mysql://host/db", "sqlite://", "nonsense"):
        with pytest.raises(ConfigError, match="database URL"):
            open_engine(url)
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailable, match="folder cannot be created"):
        open_engine(f"sqlite:///{tmp_path}/file/service.db")
