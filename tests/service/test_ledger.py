"""The ledger: it has every served forecast, and actuals score them. Retries, shadows and adaptive intervals."""

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from forecaster.registry.cache import CHALLENGER, CHAMPION, ModelIndex, read_indexes, write_index
from service import housekeeping
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, series, wait_until_ready


@pytest.fixture
def client(models: TrainedModels, tmp_path: Path) -> Iterator[TestClient]:
    """Yield a client of a service with a new ledger and a challenger that forecasts every request."""
    settings = Settings(
        cache_dir=models.cache,
        tracking_uri="",
        database_url=f"sqlite:///{tmp_path}/l.db",
        shadow_share=1,
        max_actuals=9,
    )
    before = read_indexes(models.cache)["sine"]
    write_index(models.cache, "sine", ModelIndex({CHAMPION: 1, CHALLENGER: 2}, before.runs))
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client
    write_index(models.cache, "sine", before)


def forecast(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/forecasts", json=forecast_request(**changes))
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def send_actuals(client: TestClient, forecast: dict[str, Any], values: list[float]) -> dict[str, Any]:
    rows = [
        {"unique_id": forecast["unique_id"], "ds": ds, "y": y} for ds, y in zip(forecast["ds"], values, strict=False)
    ]
    answer = client.post("/v1/actuals", json={"actuals": rows})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def wait_for_forecasts(client: TestClient, count: int) -> list[dict[str, Any]]:
    """Return the latest forecasts of series `a`, once there are `count`: shadow forecasts come after the answer."""
    deadline = time.monotonic() + 20
    while True:
        answer = client.get("/v1/forecasts", params={"model": "sine", "unique_id": "a"})
        stored: list[dict[str, Any]] = answer.json()["forecasts"]
        if len(stored) >= count or time.monotonic() > deadline:
            return stored
        time.sleep(0.02)


def test_forecast_is_found_by_its_id_with_its_actuals(client: TestClient) -> None:
    answer = forecast(client, series=[series(unique_id="a"), series(unique_id="b")], level=[50])
    served = answer["forecasts"][1]
    found = client.get(f"/v1/forecasts/{served['forecast_id']}").json()
    assert found["forecast"] == served
    assert found["actual"] == [None] * 4
    assert {name: found[name] for name in ("model", "skill", "forecast_by", "warnings")} == {
        name: answer[name] for name in ("model", "skill", "forecast_by", "warnings")
    }
    assert not found["is_shadow"]
    assert send_actuals(client, served, [1.0, 2.0]) == {"accepted": 2, "changed": 2}
    assert client.get(f"/v1/forecasts/{served['forecast_id']}").json()["actual"] == [1.0, 2.0, None, None]
    assert client.get("/v1/forecasts/nothing").status_code == 404


def test_realised_skill_does_not_depend_on_the_requested_levels(client: TestClient) -> None:
    (without_levels,) = forecast(client, level=None)["forecasts"]
    (with_levels,) = forecast(client, level=[80, 95])["forecasts"]
    actuals = [with_levels["mean"][0], with_levels["hi-80"][1] + 1e-6, with_levels["hi-95"][2] + 1e-6]
    send_actuals(client, without_levels, actuals)
    (realised,) = client.get("/v1/skill", params={"model": "sine"}).json()["realised"]
    assert realised["n_scores"] == 6
    errors = [abs(mean - y) for mean, y in zip(without_levels["mean"], actuals, strict=False)]
    last = series()["y"][-1]
    assert realised["mae"] == pytest.approx(sum(errors) / 3)
    assert realised["relative_mae"] == pytest.approx(sum(errors) / sum(abs(last - y) for y in actuals))
    assert realised["coverage"] == pytest.approx({"80": 1 / 3, "95": 2 / 3})
    days = client.get("/v1/skill", params={"model": "sine", "by": "day"}).json()
    assert [day["group"] for day in days["realised"]] == ["2026-01-02"]
    query = {"model": "sine", "by": "step", "since": without_levels["ds"][1]}
    steps = client.get("/v1/skill", params=query).json()["realised"]
    assert [(step["group"], step["n_scores"]) for step in steps] == [(2, 2), (3, 2)]


def test_actuals_may_have_another_utc_offset(client: TestClient) -> None:
    with_zone = series()
    with_zone["ds"] = [f"{ds}+02:00" for ds in with_zone["ds"]]
    (served,) = forecast(client, series=[with_zone])["forecasts"]
    assert served["ds"][0] == "2026-01-02T06:00:00+02:00"
    rows = [{"unique_id": "a", "ds": "2026-01-02T04:00:00Z", "y": 1.5}]
    assert client.post("/v1/actuals", json={"actuals": rows}).status_code == 200
    assert client.get(f"/v1/forecasts/{served['forecast_id']}").json()["actual"] == [1.5, None, None, None]


def test_challenger_forecasts_in_the_shadow(client: TestClient) -> None:
    answer = forecast(client)
    assert answer["model"]["version"] == 1
    wait_for_forecasts(client, 2)
    send_actuals(client, answer["forecasts"][0], [0.0] * 4)
    served, shadow = (
        client.get("/v1/skill", params={"model": "sine", "by": "version", "is_shadow": is_shadow}).json()["realised"]
        for is_shadow in (False, True)
    )
    assert [(group["group"], group["n_scores"]) for group in served] == [(1, 4)]
    assert [(group["group"], group["n_scores"]) for group in shadow] == [(2, 4)]
    # a request for a version has no shadow
    forecast(client, version=1)
    assert sorted(stored["is_shadow"] for stored in wait_for_forecasts(client, 3)) == [False, False, True]


def test_retry_with_the_same_idempotency_key_gets_the_same_answer(client: TestClient) -> None:
    body = json.dumps(forecast_request())
    first, again = (client.post("/v1/forecasts", content=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.status_code == 200
    assert first.content == again.content
    # the challenger has forecast only the first request
    assert sorted(stored["is_shadow"] for stored in wait_for_forecasts(client, 2)) == [False, True]
    other = client.post("/v1/forecasts", json=forecast_request(horizon=2), headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert "Idempotency-Key: it was used for another request" in other.json()["detail"]
    without = client.post("/v1/forecasts", content=body)
    assert without.json()["forecasts"][0]["forecast_id"] != first.json()["forecasts"][0]["forecast_id"]


def test_retry_gets_the_stored_answer_of_a_version_that_is_no_longer_served(
    client: TestClient, models: TrainedModels
) -> None:
    body, key = json.dumps(forecast_request(version=2)), {"Idempotency-Key": "k"}
    first = client.post("/v1/forecasts", content=body, headers=key)
    assert first.status_code == 200
    write_index(models.cache, "sine", ModelIndex({CHAMPION: 1}, {1: read_indexes(models.cache)["sine"].runs[1]}))
    deadline = time.monotonic() + 20
    while client.post("/v1/forecasts", content=body).status_code != 404:
        assert time.monotonic() < deadline, "version 2 is still served"
        time.sleep(0.05)
    again = client.post("/v1/forecasts", content=body, headers=key)
    assert (again.status_code, again.content) == (200, first.content)
    assert client.post("/v1/forecasts", content=body, headers={"Idempotency-Key": "l"}).status_code == 404


def test_ndjson_answer_equals_the_json_answer(client: TestClient) -> None:
    request = forecast_request(series=[series(unique_id=name) for name in "abc"])
    lines = client.post("/v1/forecasts", json=request, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["Content-Type"].startswith("application/x-ndjson")
    head, *forecasts = [json.loads(line) for line in lines.text.splitlines()]
    whole = client.post("/v1/forecasts", json=request).json()
    assert head == {name: part for name, part in whole.items() if name != "forecasts"}
    assert [line["mean"] for line in forecasts] == [served["mean"] for served in whole["forecasts"]]


@pytest.mark.parametrize(
    ("actuals", "message"),
    [
        ([], "actuals: List should have at least 1 item"),
        ([{"unique_id": "a", "ds": "2026-01-01", "y": None}], "actuals[0].y"),
        ([{"unique_id": "a", "ds": 5, "y": 1}], "actuals[0].ds: Input should be an ISO 8601 date or time"),
        ([{"unique_id": "a", "ds": "2026-01-01", "y": 1}] * 10, "actuals: 10 actuals, at most 9"),
    ],
)
def test_invalid_actuals_are_refused(client: TestClient, actuals: list[Any], message: str) -> None:
    answer = client.post("/v1/actuals", json={"actuals": actuals})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_forecasts_fail_while_the_ledger_cannot_be_used(models: TrainedModels, tmp_path: Path) -> None:
    file = tmp_path / "l.db"
    file.write_text("not a database" * 100)
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{file}")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        for _ in range(1000):
            ready = client.get("/health/ready")
            if ready.json()["models"]:
                break
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert ready.json()["last_problem"] == "the database does not answer; see the log"
        answer = client.post("/v1/forecasts", json=forecast_request())
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        # clients must not see the database's address
        assert "l.db" not in answer.text
        file.unlink()
        # the service creates a new database
        wait_until_ready(client)
        assert client.post("/v1/forecasts", json=forecast_request()).status_code == 200


def test_misses_widen_the_intervals_of_their_series_only(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.1)
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{tmp_path}/l.db")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        before = forecast(client, level=[50, 80, 95])["forecasts"][0]
        assert not before["is_adapted"]
        # each actual lies above every interval
        for row in range(10):
            (served,) = forecast(client, series=[series(30 + row)])["forecasts"]
            send_actuals(client, served, [served["mean"][0] + 100])
        deadline = time.monotonic() + 30
        while not (after := forecast(client, level=[50, 80, 95])["forecasts"][0])["is_adapted"]:
            assert time.monotonic() < deadline
        other = forecast(client, series=[series(unique_id="other")], level=[50, 80, 95])["forecasts"][0]
    assert after["mean"] == before["mean"]
    for level in (50, 80, 95):
        assert after[f"hi-{level}"][0] >= before[f"hi-{level}"][0]
        assert after[f"lo-{level}"][0] <= before[f"lo-{level}"][0]
    assert after["hi-80"][0] > before["hi-80"][0]
    assert not other["is_adapted"]
    assert other["hi-80"] == before["hi-80"]


@pytest.mark.parametrize("is_late", [False, True])
def test_first_answer_after_a_start_has_adapted_intervals(models: TrainedModels, tmp_path: Path, is_late: bool) -> None:
    file, away = tmp_path / "l.db", tmp_path / "away.db"
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{file}")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        send_actuals(client, forecast(client)["forecasts"][0], [100.0] * 4)
    if is_late:
        # the database cannot be used at the start
        file.rename(away)
        file.write_text("not a database" * 100)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        while is_late and client.get("/health/ready").json()["last_problem"] is None:
            time.sleep(0.01)
        if is_late:
            assert client.post("/v1/forecasts", json=forecast_request()).status_code == 503
            away.replace(file)
        deadline = time.monotonic() + 60
        answer = client.post("/v1/forecasts", json=forecast_request())
        while answer.status_code != 200:
            assert time.monotonic() < deadline
            answer = client.post("/v1/forecasts", json=forecast_request())
    assert answer.json()["forecasts"][0]["is_adapted"]


@pytest.mark.parametrize(
    ("start", "day"),
    [("0001-01-01T00:00:00+23:59", "0001-01-01"), ("9999-12-30T17:00:00-05:00", "10000-01-01")],
)
def test_skill_by_day_supports_the_first_and_the_last_year(client: TestClient, start: str, day: str) -> None:
    first = datetime.fromisoformat(start)
    history = series(25)
    history["ds"] = [(first + timedelta(hours=row)).isoformat() for row in range(25)]
    # the answer has times after year 9999, which Python and so /v1/actuals cannot read
    (served,) = forecast(client, series=[history], horizon=4)["forecasts"]
    rows = [{"unique_id": "a", "ds": ds, "y": 1.0} for ds in served["ds"] if len(ds) == len(start)]
    assert client.post("/v1/actuals", json={"actuals": rows}).status_code == 200
    answer = client.get("/v1/skill", params={"model": "sine", "by": "day"})
    assert answer.status_code == 200, answer.text
    assert day in [group["group"] for group in answer.json()["realised"]]
    assert client.get(f"/v1/forecasts/{served['forecast_id']}").status_code == 200


def test_housekeeping_reads_sums_and_not_single_scores(client: TestClient) -> None:
    state = client.app.state  # type: ignore[attr-defined]
    send_actuals(client, forecast(client)["forecasts"][0], [100.0] * 4)
    statements: list[str] = []
    engine = state.forecast_service.maintenance_engine
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    housekeeping.run_tasks(state.forecast_service, state.model_store.catalog, state.metrics)
    assert statements
    assert [statement for statement in statements if re.search(r"\bscores\b", statement)] == []
    assert forecast(client)["forecasts"][0]["is_adapted"]
