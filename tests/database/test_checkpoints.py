"""Checkpoints move the log into the database without a commit that waits for it."""

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from forecaster.database import checkpoints
from forecaster.database.checkpoints import Checkpointer
from forecaster.database.engine import open_engine
from forecaster.database.keys import create_key
from forecaster.database.schema import upgrade_schema


def wait_for(is_done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not is_done() and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_done()


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_INTERVAL_SECONDS", 0.01)


def test_checkpoints_fill_the_database_while_commits_do_not(tmp_path: Path) -> None:
    file = tmp_path / "service.db"
    engine = open_engine(f"sqlite:///{file}", makes_checkpoints=False)
    upgrade_schema(engine)
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = file.stat().st_size
    # more pages than make SQLite checkpoint by itself
    for _ in range(4):
        create_key(engine, "x" * 200, ["forecast"])
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS filler (text TEXT)")
            connection.exec_driver_sql("INSERT INTO filler VALUES (?)", [("y" * 4000,)] * 500)
    assert file.stat().st_size == before
    checkpointer = Checkpointer(open_engine(f"sqlite:///{file}"))
    checkpointer.start()
    assert wait_for(lambda: file.stat().st_size > before + 1_000_000)
    checkpointer.stop()
    engine.dispose()


def test_long_log_is_truncated_under_steady_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_LOG_PAGES", 100)
    file = tmp_path / "service.db"
    engine = open_engine(f"sqlite:///{file}", makes_checkpoints=False)
    upgrade_schema(engine)
    checkpointer = Checkpointer(open_engine(f"sqlite:///{file}", 0))
    checkpointer.start()
    largest = 0
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE filler (text TEXT)")

    def is_truncated() -> bool:
        nonlocal largest
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO filler VALUES (?)", [("y" * 4000,)] * 50)
        size = file.with_name("service.db-wal").stat().st_size
        largest = max(largest, size)
        return largest > 1_000_000 and size < largest / 2

    assert wait_for(is_truncated)
    checkpointer.stop()
    engine.dispose()


def test_database_that_is_away_is_checkpointed_once_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "forecaster.database")
    file, away = tmp_path / "service.db", tmp_path / "away.db"
    engine = open_engine(f"sqlite:///{file}")
    upgrade_schema(engine)
    engine.dispose()
    file.rename(away)
    checkpointer = Checkpointer(engine)
    checkpointer.start()
    assert wait_for(lambda: "no checkpoint" in caplog.text)
    away.rename(file)
    create_key(engine, "shop", ["forecast"])
    assert checkpointer._thread is not None
    assert checkpointer._thread.is_alive()
    checkpointer.stop()
    engine.dispose()


def test_checkpointer_of_postgres_does_nothing(postgres: str) -> None:
    checkpointer = Checkpointer(open_engine(postgres))
    checkpointer.start()
    assert checkpointer._thread is None
    checkpointer.stop()
