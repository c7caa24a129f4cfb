"""Requests that come at the same time: forecast together, each answered as if it were alone."""

import asyncio
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from forecaster.domain.errors import DatabaseUnavailable
from tests.service.conftest import ask, series


def together(
    client: TestClient, bodies: list[dict[str, Any]], headers: dict[str, str] | None = None
) -> list[httpx2.Response]:
    """Return the answers to requests that are all sent before the first is answered."""

    async def send() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(client.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as there:
            return await asyncio.gather(*(there.post("/v1/forecasts", json=body, headers=headers) for body in bodies))

    assert client.portal is not None
    return client.portal.call(send)


def runs(client: TestClient) -> tuple[float, float]:
    """Return how often a model was run, and on how many series in all."""
    (family,) = (
        one
        for one in text_string_to_metric_families(client.get("/metrics").text)
        if one.name == "forecaster_batch_size"
    )
    values = dict.fromkeys(("forecaster_batch_size_count", "forecaster_batch_size_sum"), 0.0)
    for sample in family.samples:
        if sample.name in values:
            values[sample.name] += sample.value
    count, total = values.values()
    return count, total


def bodies() -> list[dict[str, Any]]:
    """Return requests that differ in what they ask for and in what they start from."""
    starts = [f"2026-01-{day:02d}T0{day}:00:00" for day in range(1, 9)]
    waves = [series(24 + day, f"s{day}", start) for day, start in enumerate(starts)]
    return [
        *(ask(series=[wave | {"y": [number + 1 for number in wave["y"]]}]) for wave in waves),
        ask(series=[series(30, "two"), series(30, "three")]),
        ask(series=[series()], horizon=2),
        ask(series=[series()], level=None, quantiles=[0.3]),
        ask(series=[series()], version=2),
    ]


def test_each_is_answered_as_if_it_were_alone(client: TestClient) -> None:
    alone = [client.post("/v1/forecasts", json=body).json() for body in bodies()]
    before = runs(client)
    answers = [answer.json() for answer in together(client, bodies())]
    after = runs(client)
    # nine of one kind, and three of others
    assert (after[0] - before[0], after[1] - before[1]) == (4, 13)
    for one, other in zip(answers, alone, strict=True):
        assert [{**found, "forecast_id": ""} for found in one["forecasts"]] == [
            {name: pytest.approx(what, rel=1e-5, abs=1e-5) if name[:2] in ("me", "lo", "hi", "q-") else what
             for name, what in {**found, "forecast_id": ""}.items()}
            for found in other["forecasts"]
        ]  # fmt: skip
        assert {**one, "forecasts": 0} == {**other, "forecasts": 0}


def test_what_one_of_them_cannot_have_does_not_keep_the_others_from_theirs(client: TestClient) -> None:
    huge = ask(version=2, series=[series() | {"y": [1e308, -1e308] * 15}])
    answers = together(client, [ask(version=2), huge, ask(version=2)])
    assert [answer.status_code for answer in answers] == [200, 422, 200]


def test_the_same_key_at_the_same_time_is_one_answer(client: TestClient) -> None:
    answers = together(client, [ask()] * 4, {"Idempotency-Key": "at-once"})
    assert len({answer.text for answer in answers}) == 1


def test_a_ledger_with_too_much_to_write_says_so_to_each(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(entries: object) -> None:
        raise DatabaseUnavailable("too many")

    monkeypatch.setattr(client.app.state.forecast_service.writer, "submit", is_full)  # type: ignore[attr-defined]
    assert {answer.status_code for answer in together(client, [ask(), ask()])} == {503}
