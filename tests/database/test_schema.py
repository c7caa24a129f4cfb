"""The database: its migrations make its tables, on SQLite and on Postgres; its errors hide passwords."""

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
from forecaster.database.jobs import ask_for_retraining
from forecaster.database.schema import MIGRATIONS, REVISION, bring_up_to_date
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


def test_migrations_make_the_tables_once_however_many_come_together(engine: Engine) -> None:
    failures: list[BaseException] = []

    def come() -> None:
        own = open_engine(engine.url.render_as_string(hide_password=False))
        try:
            bring_up_to_date(own)
        except BaseException as error:
            failures.append(error)
        own.dispose()

    together = [threading.Thread(target=come) for _ in range(6)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert failures == []
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "forecaster_version"})
        assert compare_metadata(context, METADATA) == []
        assert set(METADATA.tables) <= set(inspect(connection).get_table_names())


def test_a_migration_that_breaks_off_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Operations.create_table

    def breaks_off(operations: Operations, name: str, *columns: Any, **options: Any) -> Any:
        if name == "jobs":
            raise KeyboardInterrupt
        return honest(operations, name, *columns, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Operations, "create_table", breaks_off)
        bring_up_to_date(engine)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    bring_up_to_date(engine)
    with transaction(engine) as connection:
        assert ask_for_retraining(engine, "sine", "why")


def test_of_many_services_that_see_the_same_evidence_one_asks(engine: Engine) -> None:
    bring_up_to_date(engine)
    asked: list[bool] = []

    def ask() -> None:
        own = open_engine(engine.url.render_as_string(hide_password=False))
        asked.append(ask_for_retraining(own, "sine", "drift"))
        own.dispose()

    together = [threading.Thread(target=ask) for _ in range(6)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert sorted(asked) == [False] * 5 + [True]
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM jobs")).scalar() == 1


def test_the_revision_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == REVISION


def test_a_database_of_a_newer_program_is_left_alone(engine: Engine) -> None:
    bring_up_to_date(engine)
    with transaction(engine) as connection:
        connection.execute(text("UPDATE forecaster_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnavailable, match=f"revision 9999, this program knows {REVISION}; update it"):
        bring_up_to_date(engine)


def test_what_goes_wrong_undoes_the_transaction_and_names_no_password(postgres: str) -> None:
    engine = open_engine(fresh_database(postgres))
    with pytest.raises(DatabaseUnavailable, match="does not answer") as caught, transaction(engine) as connection:
        connection.execute(text("CREATE TABLE one (number INTEGER)"))
        connection.execute(text("SELECT nothing FROM nowhere"))
    assert "p%40ss" not in str(caught.value)
    with engine.connect() as connection:
        assert not inspect(connection).has_table("one")
    engine.dispose()


def test_only_databases_that_are_known_are_taken(tmp_path: Path) -> None:
    for url in ("mysql://host/db", "sqlite://", "nonsense"):
        with pytest.raises(ConfigError, match="database URL"):
            open_engine(url)
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailable, match="folder cannot be made"):
        open_engine(f"sqlite:///{tmp_path}/file/service.db")
