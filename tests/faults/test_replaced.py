"""A database file that is replaced or deleted under load: every answered forecast is in a file."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import TrainedModels
from tests.faults.conftest import Load, RunningService, running


def remove(file: Path) -> None:
    file.unlink()


def replace_by_empty(file: Path) -> None:
    file.with_name("empty").touch()
    file.with_name("empty").replace(file)


def replace_by_copy(file: Path) -> None:
    """Replace the file by an older copy of it, like a backup restored by hand."""
    copy = file.with_name("copy.db")
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as new:
        live.backup(new)
    time.sleep(0.5)
    copy.replace(file)


def stored(*files: Path) -> set[str]:
    """Return the ids of the forecasts in some files."""
    ids: set[str] = set()
    for file in files:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            ids |= {forecast_id for (forecast_id,) in connection.execute("SELECT forecast_id FROM forecasts")}
    return ids


def wait_until(service: RunningService, status: int) -> None:
    deadline = time.monotonic() + 60
    while service.request("GET", "/health/ready")[0] != status:
        assert time.monotonic() < deadline, f"readiness did not become {status}"
        time.sleep(0.05)


def answered(load: Load) -> list[str]:
    return [answer["forecasts"][0]["forecast_id"] for status, answer in load.answers if status == 200]


@pytest.mark.parametrize("lose", [remove, replace_by_empty])
def test_answered_forecasts_are_in_the_file_after_it_was_lost(
    models: TrainedModels, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    file, link = tmp_path / "service.db", tmp_path / "link.db"
    with running(models.cache, f"sqlite:///{file}") as service:
        with Load(service).running() as load:
            time.sleep(1)
            os.link(file, link)
            lose(file)
            wait_until(service, 503)
            # answers committed earlier may still be in flight
            time.sleep(0.5)
            n_answered = len(answered(load))
            time.sleep(1)
            assert len(answered(load)) == n_answered
            assert service.request("GET", "/health/live")[0] == 200
            # the same file comes back, with its write-ahead log
            link.replace(file)
            wait_until(service, 200)
            time.sleep(1)
        assert len(answered(load)) > n_answered
        assert {status for status, _ in load.answers} == {200, 503}
        assert set(answered(load)) <= stored(file)


def test_replaced_database_file_keeps_all_answered_forecasts(models: TrainedModels, tmp_path: Path) -> None:
    file, link = tmp_path / "service.db", tmp_path / "link.db"
    with running(models.cache, f"sqlite:///{file}") as service:
        with Load(service).running() as load:
            time.sleep(1)
            os.link(file, link)
            replace_by_copy(file)
            wait_until(service, 200)
            time.sleep(1)
        (log,) = tmp_path.glob("service.db-wal.replaced-*")
        shutil.copy(log, tmp_path / "link.db-wal")
        # each answer is in the old file or in the new one
        assert set(answered(load)) <= stored(file, link)
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {status for status, _ in load.answers} <= {200, 503}
