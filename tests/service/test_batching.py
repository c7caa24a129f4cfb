"""Batching: concurrent requests are forecast together."""

import asyncio
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from forecaster.domain.errors import DatabaseUnavailable
from tests.service.conftest import forecast_request, series


def post_concurrently(
    client: TestClient, bodies: list[dict[str, Any]], headers: dict[str, str] | None = None
) -> list[httpx2.Response]:
    """Send all requests before the first is answered; return the responses."""

    async def send() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(client.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as session:
            return await asyncio.gather(*(session.post("/v1/forecasts", json=body, headers=headers) for body in bodies))

    assert client.portal is not None
    return client.portal.call(send)


def count_batches(client: TestClient) -> tuple[float, float]:
    """Return the number of batches so far, and the number of series in them."""
    (family,) = (
        family
        for family in text_string_to_metric_families(client.get("/metrics").text)
        if family.name == "forecaster_batch_size"
    )
    values = dict.fromkeys(("forecaster_batch_size_count", "forecaster_batch_size_sum"), 0.0)
    for sample in family.samples:
        if sample.name in values:
            values[sample.name] += sample.value
    count, total = values.values()
    return count, total


def different_requests() -> list[dict[str, Any]]:
    """Return requests with different series, horizons, intervals and versions."""
    starts = [f"2026-01-{day:02d}T0{day}:00:00" for day in range(1, 9)]
    waves = [series(24 + day, f"s{day}", start) for day, start in enumerate(starts)]
    return [
        *(forecast_request(series=[wave | {"y": [number + 1 for number in wave["y"]]}]) for wave in waves),
        forecast_request(series=[series(30, "two"), series(30, "three")]),
        forecast_request(series=[series()], horizon=2),
        forecast_request(series=[series()], level=None, quantiles=[0.3]),
        forecast_request(series=[series()], version=2),
    ]


def test_batched_requests_get_the_same_answers_as_single_requests(client: TestClient) -> None:
    single = [client.post("/v1/forecasts", json=body).json() for body in different_requests()]
    before = count_batches(client)
    batched = [response.json() for response in post_concurrently(client, different_requests())]
    after = count_batches(client)
    # nine requests can share a batch; the other three need one each
    assert (after[0] - before[0], after[1] - before[1]) == (4, 13)
    for answer, expected in zip(batched, single, strict=True):
        assert [{**forecast, "forecast_id": ""} for forecast in answer["forecasts"]] == [
            {name: pytest.approx(value, rel=1e-5, abs=1e-5) if name[:2] in ("me", "lo", "hi", "q-") else value
             for name, value in {**forecast, "forecast_id": ""}.items()}
            for forecast in expected["forecasts"]
        ]  # fmt: skip
        assert {**answer, "forecasts": 0} == {**expected, "forecasts": 0}


def test_failing_request_does_not_fail_its_batch(client: TestClient) -> None:
    huge = forecast_request(version=2, series=[series() | {"y": [1e308, -1e308] * 15}])
    responses = post_concurrently(client, [forecast_request(version=2), huge, forecast_request(version=2)])
    assert [response.status_code for response in responses] == [200, 422, 200]


def test_concurrent_requests_with_the_same_idempotency_key_get_one_answer(client: TestClient) -> None:
    responses = post_concurrently(client, [forecast_request()] * 4, {"Idempotency-Key": "at-once"})
    assert {response.status_code for response in responses} == {200}
    assert len({response.text for response in responses}) == 1


def test_full_ledger_queue_fails_each_request_of_a_batch(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(entries: object) -> None:
        raise DatabaseUnavailable("the queue is full")

    writer = client.app.state.forecast_service.writer  # type: ignore[attr-defined]
    monkeypatch.setattr(writer, "submit", submit)
    monkeypatch.setattr(writer, "write_now", lambda entries: None)
    responses = post_concurrently(client, [forecast_request(), forecast_request()])
    assert [response.status_code for response in responses] == [503, 503]
