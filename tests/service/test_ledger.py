"""Every forecast that is answered is in the ledger, and what came says how good it was."""

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
from tests.service.conftest import forecast_request as ask
from tests.service.conftest import series, wait_until_ready


@pytest.fixture
def own(models: TrainedModels, tmp_path: Path) -> Iterator[TestClient]:
    """A service with a ledger of its own, and a challenger that answers everything too."""
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
    answer = client.post("/v1/forecasts", json=ask(**changes))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def send(client: TestClient, forecast: dict[str, Any], values: list[float]) -> dict[str, Any]:
    rows = [
        {"unique_id": forecast["unique_id"], "ds": ds, "y": y} for ds, y in zip(forecast["ds"], values, strict=False)
    ]
    answer = client.post("/v1/actuals", json={"actuals": rows})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def latest(client: TestClient, count: int) -> list[dict[str, Any]]:
    """Return the latest forecasts of series `a`, once there are so many: nobody waits for a challenger's."""
    deadline = time.monotonic() + 20
    while True:
        answer = client.get("/v1/forecasts", params={"model": "sine", "unique_id": "a"})
        found: list[dict[str, Any]] = answer.json()["forecasts"]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def test_a_forecast_is_found_by_its_id_with_what_came(own: TestClient) -> None:
    answer = forecast(own, series=[series(unique_id="a"), series(unique_id="b")], level=[50])
    one = answer["forecasts"][1]
    found = own.get(f"/v1/forecasts/{one['forecast_id']}").json()
    assert found["forecast"] == one
    assert found["actual"] == [None] * 4
    assert {name: found[name] for name in ("model", "skill", "forecast_by", "warnings")} == {
        name: answer[name] for name in ("model", "skill", "forecast_by", "warnings")
    }
    assert not found["is_shadow"]
    assert send(own, one, [1.0, 2.0]) == {"accepted": 2, "changed": 2}
    assert own.get(f"/v1/forecasts/{one['forecast_id']}").json()["actual"] == [1.0, 2.0, None, None]
    assert own.get("/v1/forecasts/nothing").status_code == 404


def test_what_came_is_realised_skill_whatever_level_was_asked_for(own: TestClient) -> None:
    (one,) = forecast(own, level=None)["forecasts"]
    (wide,) = forecast(own, level=[80, 95])["forecasts"]
    came = [wide["mean"][0], wide["hi-80"][1] + 1e-6, wide["hi-95"][2] + 1e-6]
    send(own, one, came)
    (whole,) = own.get("/v1/skill", params={"model": "sine"}).json()["realised"]
    assert whole["n_scores"] == 6
    errors = [abs(mean - y) for mean, y in zip(one["mean"], came, strict=False)]
    last = series()["y"][-1]
    assert whole["mae"] == pytest.approx(sum(errors) / 3)
    assert whole["relative_mae"] == pytest.approx(sum(errors) / sum(abs(last - y) for y in came))
    assert whole["coverage"] == pytest.approx({"80": 1 / 3, "95": 2 / 3})
    days = own.get("/v1/skill", params={"model": "sine", "by": "day"}).json()
    assert [day["group"] for day in days["realised"]] == ["2026-01-02"]
    steps = own.get("/v1/skill", params={"model": "sine", "by": "step", "since": one["ds"][1]}).json()["realised"]
    assert [(step["group"], step["n_scores"]) for step in steps] == [(2, 2), (3, 2)]


def test_a_zone_is_the_same_time_in_another(own: TestClient) -> None:
    with_zone = series()
    with_zone["ds"] = [f"{ds}+02:00" for ds in with_zone["ds"]]
    (one,) = forecast(own, series=[with_zone])["forecasts"]
    assert one["ds"][0] == "2026-01-02T06:00:00+02:00"
    rows = [{"unique_id": "a", "ds": "2026-01-02T04:00:00Z", "y": 1.5}]
    assert own.post("/v1/actuals", json={"actuals": rows}).status_code == 200
    assert own.get(f"/v1/forecasts/{one['forecast_id']}").json()["actual"] == [1.5, None, None, None]


def test_a_challenger_answers_unseen(own: TestClient) -> None:
    answer = forecast(own)
    assert answer["model"]["version"] == 1
    (one,) = answer["forecasts"]
    latest(own, 2)
    send(own, one, [0.0] * 4)
    seen, unseen = (
        own.get("/v1/skill", params={"model": "sine", "by": "version", "is_shadow": is_shadow}).json()["realised"]
        for is_shadow in (False, True)
    )
    assert [(one["group"], one["n_scores"]) for one in seen] == [(1, 4)]
    assert [(one["group"], one["n_scores"]) for one in unseen] == [(2, 4)]
    # whoever asks for a version gets it alone
    forecast(own, version=1)
    assert sorted(one["is_shadow"] for one in latest(own, 3)) == [False, False, True]


def test_asked_again_under_its_key_a_request_is_answered_the_same(own: TestClient) -> None:
    body = json.dumps(ask())
    first, again = (own.post("/v1/forecasts", content=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.status_code == 200
    assert first.content == again.content
    # and the challenger, too, answered once
    assert sorted(one["is_shadow"] for one in latest(own, 2)) == [False, True]
    other = own.post("/v1/forecasts", json=ask(horizon=2), headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert "Idempotency-Key: it was used for another request" in other.json()["detail"]
    without = own.post("/v1/forecasts", content=body)
    assert without.json()["forecasts"][0]["forecast_id"] != first.json()["forecasts"][0]["forecast_id"]


def test_a_request_is_answered_again_though_its_version_is_served_no_more(
    own: TestClient, models: TrainedModels
) -> None:
    body, key = json.dumps(ask(version=2)), {"Idempotency-Key": "k"}
    first = own.post("/v1/forecasts", content=body, headers=key)
    assert first.status_code == 200
    write_index(models.cache, "sine", ModelIndex({CHAMPION: 1}, {1: read_indexes(models.cache)["sine"].runs[1]}))
    deadline = time.monotonic() + 20
    while own.post("/v1/forecasts", content=body).status_code != 404:
        assert time.monotonic() < deadline, "version 2 is served for ever"
        time.sleep(0.05)
    again = own.post("/v1/forecasts", content=body, headers=key)
    assert (again.status_code, again.content) == (200, first.content)
    assert own.post("/v1/forecasts", content=body, headers={"Idempotency-Key": "l"}).status_code == 404


def test_large_answers_come_in_lines(own: TestClient) -> None:
    request = ask(series=[series(unique_id=name) for name in "abc"])
    lines = own.post("/v1/forecasts", json=request, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["Content-Type"].startswith("application/x-ndjson")
    head, *forecasts = [json.loads(line) for line in lines.text.splitlines()]
    whole = own.post("/v1/forecasts", json=request).json()
    assert head == {name: part for name, part in whole.items() if name != "forecasts"}
    assert [one["mean"] for one in forecasts] == [one["mean"] for one in whole["forecasts"]]


@pytest.mark.parametrize(
    ("actuals", "said"),
    [
        ([], "actuals: List should have at least 1 item"),
        ([{"unique_id": "a", "ds": "2026-01-01", "y": None}], "actuals[0].y"),
        ([{"unique_id": "a", "ds": 5, "y": 1}], "actuals[0].ds: Input should be an ISO 8601 date or time"),
        ([{"unique_id": "a", "ds": "2026-01-01", "y": 1}] * 10, "actuals: 10 actuals, at most 9"),
    ],
)
def test_actuals_that_are_none_are_refused(own: TestClient, actuals: list[Any], said: str) -> None:
    answer = own.post("/v1/actuals", json={"actuals": actuals})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_without_its_ledger_no_forecast_is_answered(models: TrainedModels, tmp_path: Path) -> None:
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
        answer = client.post("/v1/forecasts", json=ask())
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        # where it is, is nobody's affair
        assert "l.db" not in answer.text
        file.unlink()
        # as soon as it is there again
        wait_until_ready(client)
        assert client.post("/v1/forecasts", json=ask()).status_code == 200


def test_intervals_that_missed_are_widened_for_that_series_alone(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.1)
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{tmp_path}/l.db")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        before = forecast(client, level=[50, 80, 95])["forecasts"][0]
        assert not before["is_adapted"]
        # what came lay above every interval, hour by hour
        for row in range(10):
            (one,) = forecast(client, series=[series(30 + row)])["forecasts"]
            send(client, one, [one["mean"][0] + 100])
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
def test_the_first_answer_after_a_start_has_adapted_intervals(
    models: TrainedModels, tmp_path: Path, is_late: bool
) -> None:
    file, away = tmp_path / "l.db", tmp_path / "away.db"
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{file}")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        send(client, forecast(client)["forecasts"][0], [100.0] * 4)
    if is_late:
        # the database is away at the start
        file.rename(away)
        file.write_text("not a database" * 100)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        while is_late and client.get("/health/ready").json()["last_problem"] is None:
            time.sleep(0.01)
        if is_late:
            assert client.post("/v1/forecasts", json=ask()).status_code == 503
            away.replace(file)
        deadline = time.monotonic() + 60
        answer = client.post("/v1/forecasts", json=ask())
        while answer.status_code != 200:
            assert time.monotonic() < deadline
            answer = client.post("/v1/forecasts", json=ask())
    assert answer.json()["forecasts"][0]["is_adapted"]


@pytest.mark.parametrize(
    ("start", "day"),
    [("0001-01-01T00:00:00+23:59", "0001-01-01"), ("9999-12-30T17:00:00-05:00", "10000-01-01")],
)
def test_skill_by_day_knows_the_first_and_the_last_year(own: TestClient, start: str, day: str) -> None:
    first = datetime.fromisoformat(start)
    known = series(25)
    known["ds"] = [(first + timedelta(hours=row)).isoformat() for row in range(25)]
    # as in the answer, which goes on behind the last year that Python supports
    (one,) = forecast(own, series=[known], horizon=4)["forecasts"]
    rows = [{"unique_id": "a", "ds": ds, "y": 1.0} for ds in one["ds"] if len(ds) == len(start)]
    assert own.post("/v1/actuals", json={"actuals": rows}).status_code == 200
    answer = own.get("/v1/skill", params={"model": "sine", "by": "day"})
    assert answer.status_code == 200, answer.text
    assert day in [group["group"] for group in answer.json()["realised"]]
    assert own.get(f"/v1/forecasts/{one['forecast_id']}").status_code == 200


def test_each_minute_reads_sums_and_no_scores(own: TestClient) -> None:
    state = own.app.state  # type: ignore[attr-defined]
    send(own, forecast(own)["forecasts"][0], [100.0] * 4)
    read: list[str] = []
    event.listen(state.forecast_service.maintenance_engine, "before_cursor_execute", lambda *what: read.append(what[2]))
    housekeeping.run_tasks(state.forecast_service, state.model_store.catalog, state.metrics)
    assert read
    assert [one for one in read if re.search(r"\bscores\b", one)] == []
    assert forecast(own)["forecasts"][0]["is_adapted"]
