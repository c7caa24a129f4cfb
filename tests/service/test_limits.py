"""Limits: rates by a clock that nobody sets, and answers measured before they are made."""

import json
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from forecaster.ledger import queries
from service.exceptions import TooBusy, TooManyRequests
from service.limits import LARGE_BYTES, Budget, Rate
from service.protocol import InferenceRequest
from tests.conftest import TrainedModels
from tests.service.conftest import ask, series, wait_until_ready
from tests.service.test_security import serve


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/service.db"


def test_setting_the_wall_clock_neither_opens_nor_closes_a_rate_limit(
    models: TrainedModels, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    now = time.time
    with serve(models, url, rate_limit="3/minute") as client:
        wait_until_ready(client)
        assert [client.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        for seconds in (3600, -3600):
            monkeypatch.setattr(time, "time", lambda seconds=seconds: now() + seconds)
            refused = client.get("/v1/models")
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_a_window_moves_and_clients_that_have_gone_are_forgotten() -> None:
    at = 0.0
    rate = Rate("2/minute", lambda: at)
    rate.check("a")
    at = 30.0
    rate.check("a")
    at = 59.0
    with pytest.raises(TooManyRequests, match="2 per minute; come again in 1 s"):
        rate.check("a")
    rate.check("b")
    at = 60.0
    rate.check("a")
    with pytest.raises(TooManyRequests):
        rate.check("a")
    at = 150.0
    rate.check("c")
    assert set(rate._asked) == {"c"}


def test_a_budget_is_shared_and_one_alone_is_never_refused() -> None:
    budget = Budget(100, "bodies")
    budget.change(0, 500)
    with pytest.raises(TooBusy, match="the bodies of other requests"):
        budget.change(0, 1)
    # what is held already may become less at any time
    budget.change(500, 60)
    budget.change(0, 40)
    with pytest.raises(TooBusy):
        budget.change(40, 41)
    budget.change(60, 0)
    budget.change(40, 0)
    assert budget.held == 0


def test_columns_count_as_points_do(models: TrainedModels, url: str) -> None:
    with serve(models, url, max_points=15) as client:
        wait_until_ready(client)
        # ds, mean and one level's two bounds
        answer = client.post("/v1/forecasts", json=ask(horizon=4, level=[80]))
        assert answer.status_code == 422
        assert "1 series of 4 steps are more than 15 points, in 4 columns" in answer.json()["detail"]
        assert client.post("/v1/forecasts", json=ask(horizon=3, level=[80])).status_code == 200


def test_values_are_counted_before_they_are_parsed(models: TrainedModels, url: str) -> None:
    body = json.dumps(ask(series=[series(400)])).encode()
    with serve(models, url, max_values=500) as client:
        wait_until_ready(client)
        for path, content in (
            ("/v1/forecasts", body),
            ("/v1/actuals", b'{"actuals": [' + b"{}," * 300 + b"{}]}"),
            ("/v2/models/sine/infer", b'{"inputs": [' + b"[" * 600),
        ):
            answer = client.post(path, content=content)
            assert answer.status_code == 413
            assert "more than 500 values" in answer.text


def test_a_flat_tensor_becomes_an_array_while_it_is_parsed() -> None:
    tensor = {"name": "x", "shape": [1, 3, 1], "datatype": "FP64"}
    request = InferenceRequest.model_validate_json(json.dumps({"inputs": [tensor | {"data": [1, 2.5, -3]}]}))
    data = request.inputs[0].data
    assert isinstance(data, np.ndarray)
    assert data.tolist() == [1, 2.5, -3]


def test_a_large_answer_is_the_same_whole_in_lines_and_again(models: TrainedModels, url: str) -> None:
    body = ask(series=[series(24, f"s{number}") for number in range(200)], horizon=40, level=[80, 95])
    with serve(models, url) as client:
        wait_until_ready(client)
        first = client.post("/v1/forecasts", json=body, headers={"Idempotency-Key": "k"})
        assert first.status_code == 200
        assert len(first.content) > 5 * LARGE_BYTES
        again = client.post("/v1/forecasts", json=body, headers={"Idempotency-Key": "k"})
        assert again.content == first.content
        lines = client.post(
            "/v1/forecasts", json=body, headers={"Idempotency-Key": "k", "Accept": "application/x-ndjson"}
        )
        assert [json.loads(line) for line in lines.text.splitlines()[1:]] == first.json()["forecasts"]
        one = first.json()["forecasts"][7]
        small = client.post("/v1/forecasts", json=body | {"series": [body["series"][7]]}).json()["forecasts"][0]
        assert small["mean"] == pytest.approx(one["mean"], rel=1e-9)


def test_stored_forecasts_are_listed_as_far_as_they_are_short(
    models: TrainedModels, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models, url) as client:
        wait_until_ready(client)
        for _ in range(3):
            assert client.post("/v1/forecasts", json=ask()).status_code == 200
        asked = {"model": "sine", "unique_id": "a"}
        assert len(client.get("/v1/forecasts", params=asked).json()["forecasts"]) == 3
        length = len(json.dumps(client.post("/v1/forecasts", json=ask()).json()["forecasts"][0]))
        monkeypatch.setattr(queries, "MAX_ANSWER_CHARACTERS", 2 * length)
        refused = client.get("/v1/forecasts", params=asked)
        assert refused.status_code == 422
        assert "ask for fewer" in refused.json()["detail"]
        assert len(client.get("/v1/forecasts", params={**asked, "limit": 1}).json()["forecasts"]) == 1


def test_a_letter_beyond_ascii_does_not_make_answers_longer_in_memory(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json=ask(series=[series(unique_id="Zürich 📈")]))
    assert answer.content.isascii()
    assert answer.json()["forecasts"][0]["unique_id"] == "Zürich 📈"
