"""A database file that is replaced or deleted under load: nothing is answered that is not in the file."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import TrainedModels
from tests.faults.conftest import Load, Running, running


def remove(file: Path) -> None:
    file.unlink()


def replace_by_empty(file: Path) -> None:
    file.with_name("empty").touch()
    file.with_name("empty").replace(file)


def replace_by_copy(file: Path) -> None:
    """Put an older state in its place, as who restores a backup by hand."""
    copy = file.with_name("copy.db")
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as new:
        live.backup(new)
    time.sleep(0.5)
    copy.replace(file)


def kept(*files: Path) -> set[str]:
    """Return the forecasts that are in some files."""
    found: set[str] = set()
    for file in files:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            found |= {one for (one,) in connection.execute("SELECT forecast_id FROM forecasts")}
    return found


def wait_until(service: Running, status: int) -> None:
    deadline = time.monotonic() + 60
    while service.request("GET", "/health/ready")[0] != status:
        assert time.monotonic() < deadline, f"never {status}"
        time.sleep(0.05)


def answered(load: Load) -> list[str]:
    return [answer["forecasts"][0]["forecast_id"] for status, answer in load.answers if status == 200]


@pytest.mark.parametrize("lose", [remove, replace_by_empty])
def test_answered_forecasts_are_in_the_file_after_it_was_lost(
    models: TrainedModels, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    file, hold = tmp_path / "service.db", tmp_path / "hold.db"
    with running(models.cache, f"sqlite:///{file}") as service:
        with Load(service).going_on() as load:
            time.sleep(1)
            os.link(file, hold)
            lose(file)
            wait_until(service, 503)
            # answers that were committed before may still be on their way
            time.sleep(0.5)
            lost = len(answered(load))
            time.sleep(1)
            assert len(answered(load)) == lost
            assert service.request("GET", "/health/live")[0] == 200
            # the file itself comes back, with its log
            hold.replace(file)
            wait_until(service, 200)
            time.sleep(1)
        assert len(answered(load)) > lost
        assert {status for status, _ in load.answers} == {200, 503}
        assert set(answered(load)) <= kept(file)


def test_replaced_database_file_keeps_all_answered_forecasts(models: TrainedModels, tmp_path: Path) -> None:
    file, hold = tmp_path / "service.db", tmp_path / "hold.db"
    with running(models.cache, f"sqlite:///{file}") as service:
        with Load(service).going_on() as load:
            time.sleep(1)
            os.link(file, hold)
            replace_by_copy(file)
            wait_until(service, 200)
            time.sleep(1)
        (log,) = tmp_path.glob("service.db-wal.replaced-*")
        shutil.copy(log, tmp_path / "hold.db-wal")
        # each answer is in the file that was there when it was given
        assert set(answered(load)) <= kept(file, hold)
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {status for status, _ in load.answers} <= {200, 503}
