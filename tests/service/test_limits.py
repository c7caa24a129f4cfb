"""Limits: rate limit, memory budgets, and the size of requests and answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.exceptions import Overloaded, TooManyRequests
from service.limits import LARGE_BYTES, ByteBudget, RateLimiter
from service.protocol import InferenceRequest
from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, series, wait_until_ready
from tests.service.test_security import serve


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/service.db"


def test_wall_clock_changes_do_not_affect_the_rate_limit(
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


def test_rate_limiter_slides_its_window_and_forgets_idle_clients() -> None:
    now = 0.0
    limiter = RateLimiter("2/minute", lambda: now)
    limiter.check("a")
    now = 30.0
    limiter.check("a")
    now = 59.0
    with pytest.raises(TooManyRequests, match="rate limit of 2 requests per minute exceeded; retry in 1 s"):
        limiter.check("a")
    limiter.check("b")
    now = 60.0
    limiter.check("a")
    with pytest.raises(TooManyRequests):
        limiter.check("a")
    assert limiter.n_clients == 2
    now = 150.0
    limiter.check("c")
    assert limiter.n_clients == 1


def test_byte_budget_is_shared_and_never_refuses_a_single_request() -> None:
    budget = ByteBudget(100, "bodies")
    budget.resize(0, 500)
    with pytest.raises(Overloaded, match="the bodies of other requests"):
        budget.resize(0, 1)
    # a reservation can always be reduced
    budget.resize(500, 60)
    budget.resize(0, 40)
    with pytest.raises(Overloaded):
        budget.resize(40, 41)
    budget.resize(60, 0)
    budget.resize(40, 0)
    assert budget.reserved == 0


def test_max_points_counts_columns(models: TrainedModels, url: str) -> None:
    with serve(models, url, max_points=15) as client:
        wait_until_ready(client)
        # four columns: ds, mean and the two bounds of a level
        answer = client.post("/v1/forecasts", json=forecast_request(horizon=4, level=[80]))
        assert answer.status_code == 422
        assert "1 series of 4 steps in 4 columns are more than 15 points" in answer.json()["detail"]
        assert client.post("/v1/forecasts", json=forecast_request(horizon=3, level=[80])).status_code == 200
        # each sample path is a column
        answer = client.post("/v1/forecasts", json=forecast_request(horizon=3, level=[80], n_samples=2))
        assert answer.status_code == 422
        assert "1 series of 3 steps in 6 columns are more than 15 points" in answer.json()["detail"]


def test_max_values_refuses_a_body_before_parsing(models: TrainedModels, url: str) -> None:
    body = json.dumps(forecast_request(series=[series(400)])).encode()
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


def test_flat_tensor_is_parsed_as_an_array() -> None:
    tensor = {"name": "x", "shape": [1, 3, 1], "datatype": "FP64"}
    request = InferenceRequest.model_validate_json(json.dumps({"inputs": [tensor | {"data": [1, 2.5, -3]}]}))
    data = request.inputs[0].data
    assert isinstance(data, np.ndarray)
    assert data.tolist() == [1, 2.5, -3]


def test_large_answer_is_the_same_as_json_as_ndjson_and_on_retry(models: TrainedModels, url: str) -> None:
    body = forecast_request(series=[series(24, f"s{number}") for number in range(200)], horizon=40, level=[80, 95])
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
        forecast = first.json()["forecasts"][7]
        single = client.post("/v1/forecasts", json=body | {"series": [body["series"][7]]}).json()["forecasts"][0]
        assert single["mean"] == pytest.approx(forecast["mean"], rel=1e-9)


def test_list_of_stored_forecasts_is_limited_in_size(models: TrainedModels, url: str) -> None:
    quantiles = [0.03 + number * 0.94 / 39 for number in range(40)]
    long = forecast_request(horizon=40, level=None, quantiles=quantiles)
    params: dict[str, str | int] = {"model": "sine", "unique_id": "a", "limit": 1000}
    with serve(models, url) as client:
        wait_until_ready(client)
        first = client.post("/v1/forecasts", json=long)
        assert first.status_code == 200
        assert len(client.get("/v1/forecasts", params=params).json()["forecasts"]) == 1
        # the list is limited to 4 MiB
        length = len(json.dumps(first.json()["forecasts"][0], separators=(",", ":")))
        for _ in range(4 * 2**20 // length):
            assert client.post("/v1/forecasts", json=long).status_code == 200
        refused = client.get("/v1/forecasts", params=params)
        assert refused.status_code == 422
        assert "limit: " in refused.json()["detail"]
        assert len(client.get("/v1/forecasts", params={**params, "limit": 1}).json()["forecasts"]) == 1


def test_answer_with_non_ascii_name_is_encoded_in_ascii(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json=forecast_request(series=[series(unique_id="Zürich 📈")]))
    assert answer.content.isascii()
    assert answer.json()["forecasts"][0]["unique_id"] == "Zürich 📈"
