"""Error responses: internal details stay in the log."""

import logging
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from forecaster.data.tails import file_name
from forecaster.domain import errors
from forecaster.domain.errors import ForecasterError, MarketDataError
from service import problems
from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, wait_until_ready
from tests.service.test_security import serve

SECRET = "/srv/forecaster/mlruns/bars/A.tail.json"
# the client's errors are raised where the client runs
SERVICE_ERRORS = [
    kind for kind in map(errors.__dict__.get, errors.__all__) if kind and not issubclass(kind, errors.ClientError)
]


@pytest.mark.parametrize("kind", SERVICE_ERRORS)
@pytest.mark.parametrize("path", ["/v1/thing", "/v2/thing"])
def test_only_errors_in_the_request_are_shown_to_clients(
    kind: type[ForecasterError], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get(path)
    async def read() -> None:
        raise kind("A", SECRET) if issubclass(kind, MarketDataError) else kind(SECRET)

    with caplog.at_level(logging.ERROR, "forecaster.service"):
        answer = TestClient(app, raise_server_exceptions=False).get(path)
    if issubclass(kind, tuple(problems.SHOWN)):
        assert answer.status_code < 500
        assert SECRET in answer.text
    else:
        assert answer.status_code >= 500
        assert "/srv" not in answer.text
        assert SECRET in caplog.text


@pytest.mark.parametrize("content", [b"{", b'{"symbol": "A"}', b"\xff", None], ids=["cut", "empty", "bytes", "folder"])
def test_unreadable_tail_is_reported_without_its_path(
    models: TrainedModels, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    bars = tmp_path / "bars"
    bars.mkdir()
    file = bars / f"{file_name('A')}.tail.json"
    file.mkdir() if content is None else file.write_bytes(content)
    with serve(models, f"sqlite:///{tmp_path}/service.db", bars_dir=bars) as client:
        wait_until_ready(client)
        for answer in (
            client.get("/v1/series/A"),
            client.post("/v1/forecasts", json=forecast_request(series=None, unique_ids=["A"])),
        ):
            assert answer.status_code == 500
            assert str(tmp_path) not in answer.text
            assert "its log" in answer.json()["detail"]
    assert str(file) in caplog.text


def test_symbol_too_long_for_a_file_name_is_not_found(models: TrainedModels, tmp_path: Path) -> None:
    name = "a" * 200
    with serve(models, f"sqlite:///{tmp_path}/service.db", bars_dir=tmp_path) as client:
        wait_until_ready(client)
        for answer in (
            client.get(f"/v1/series/{name}"),
            client.post("/v1/forecasts", json=forecast_request(series=None, unique_ids=[name])),
        ):
            assert answer.status_code == 404
            assert str(tmp_path) not in answer.text
