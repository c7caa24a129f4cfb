"""Forecasts are committed on the event loop if no other writer is in the way, and by the writer's thread otherwise."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from forecaster.domain.errors import DatabaseUnavailable
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, wait_until_ready


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "service.db"


@pytest.fixture
def ledger(models: TrainedModels, database: Path) -> Iterator[TestClient]:
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{database}")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def read(database: Path, forecast_id: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT answer FROM forecasts WHERE forecast_id = ?", (forecast_id,)).fetchall()


def test_forecast_is_committed_without_a_thread(
    ledger: TestClient, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise DatabaseUnavailable("the thread was asked")

    monkeypatch.setattr("forecaster.ledger.writer.Writer.submit", refuse)
    (forecast,) = ledger.post("/v1/forecasts", json=forecast_request()).json()["forecasts"]
    assert len(read(database, forecast["forecast_id"])) == 1


def test_service_answers_while_a_forecast_waits_for_another_writer(ledger: TestClient, database: Path) -> None:
    answers: list[httpx2.Response] = []

    def post() -> None:
        answers.append(ledger.post("/v1/forecasts", json=forecast_request()))

    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        # a service that waits for the lock is let go in the end, and has failed then
        release = threading.Timer(4, other.execute, ["ROLLBACK"])
        release.start()
        waiting = threading.Thread(target=post)
        waiting.start()
        waiting.join(0.5)
        assert ledger.get("/health/live").status_code == 200
        assert release.is_alive()
        assert not answers
        release.join()
        waiting.join(30)
    (forecast,) = answers[0].json()["forecasts"]
    assert len(read(database, forecast["forecast_id"])) == 1


def test_a_retry_gets_the_answer_that_was_committed_without_a_thread(ledger: TestClient, database: Path) -> None:
    first, second = (
        ledger.post("/v1/forecasts", json=forecast_request(), headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert first.json() == second.json()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM requests").fetchone() == (1,)
