"""Owners are apart: one neither sees nor moves another's forecasts, skill, drift, intervals or evidence."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import create_key
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import JOBS
from service import housekeeping
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, run_module
from tests.service.conftest import ask, series, wait_until_ready

BOTH = ("forecast", "actuals")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/l.db")
    upgrade_schema(engine)
    yield engine
    engine.dispose()


class Client:
    """One key's view of a service."""

    def __init__(self, client: TestClient, engine: Engine, name: str, *more: str, owner: str | None = None) -> None:
        key = create_key(engine, name, [*BOTH, *more], owner)
        self.client, self.headers = client, {"Authorization": f"Bearer {key}"}

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, params=params, headers=self.headers)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.client.post(path, json=body, headers={**self.headers, **headers})

    def forecast(self, **changes: Any) -> dict[str, Any]:
        answer = self.post("/v1/forecasts", ask(**changes))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["forecasts"][0]
        return found

    def send(self, forecast: dict[str, Any], y: float) -> None:
        rows = [{"unique_id": forecast["unique_id"], "ds": ds, "y": y} for ds in forecast["ds"]]
        assert self.post("/v1/actuals", {"actuals": rows}).status_code == 200

    def realised(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/skill", model="sine").json()["realised"]
        return found


def settings(models: TrainedModels, engine: Engine, **changes: Any) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    return Settings(cache_dir=models.cache, tracking_uri="", database_url=url, keys_refresh_seconds=0.05, **changes)


@pytest.fixture
def service(models: TrainedModels, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.1)
    # so that keys are known at the start
    create_key(engine, "first", ["forecast"])
    with TestClient(
        create_app(settings(models, engine, evidence_scores=4, evidence_coverage=1)),
        raise_server_exceptions=False,
    ) as client:
        wait_until_ready(client)
        yield client


def wait_for_keys(*clients: Client) -> None:
    deadline = time.monotonic() + 30
    while any(one.get("/v1/models").status_code != 200 for one in clients):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_owner_does_not_see_what_another_asked_and_sent(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    rotated = Client(service, engine, "shop of next year", owner="shop")
    operator = Client(service, engine, "operator", "all")
    wait_for_keys(shop, bank, rotated, operator)
    one = shop.forecast()
    path = f"/v1/forecasts/{one['forecast_id']}"
    hidden, unknown = bank.get(path), bank.get("/v1/forecasts/nothing-0")
    assert (hidden.status_code, unknown.status_code) == (404, 404)
    assert hidden.json()["detail"] == unknown.json()["detail"].replace("nothing-0", one["forecast_id"])
    assert bank.get("/v1/forecasts", model="sine", unique_id="a").json()["forecasts"] == []
    assert bank.get("/v1/drift", model="sine").json()["versions"] == []
    # one owner's actuals do not score another's forecasts
    bank.send(one, 100.0)
    assert shop.get(path).json()["actual"] == [None] * 4
    assert shop.realised() == bank.realised() == operator.realised() == []
    shop.send(one, 1.0)
    assert shop.realised()[0]["n_scores"] == 4
    assert bank.realised() == []
    for other in (rotated, operator):
        assert other.get(path).json()["actual"] == [1.0] * 4
        assert other.realised() == shop.realised()
        assert len(other.get("/v1/forecasts", model="sine", unique_id="a").json()["forecasts"]) == 1
        assert other.get("/v1/drift", model="sine").json() == shop.get("/v1/drift", model="sine").json()
    assert shop.get("/v1/drift", model="sine").json()["versions"] != []


def test_actuals_from_a_key_with_scope_all_score_every_owners_forecasts(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    operator = Client(service, engine, "operator", "all")
    wait_for_keys(shop, bank, operator)
    one, other = shop.forecast(), bank.forecast()
    operator.send(one, 1.0)
    assert shop.get(f"/v1/forecasts/{one['forecast_id']}").json()["actual"] == [1.0] * 4
    assert bank.get(f"/v1/forecasts/{other['forecast_id']}").json()["actual"] == [1.0] * 4
    assert operator.realised()[0]["n_scores"] == 8


def test_an_idempotency_key_is_an_owners(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    rotated = Client(service, engine, "shop of next year", owner="shop")
    wait_for_keys(shop, bank, rotated)
    ids = [
        one.post("/v1/forecasts", ask(), **{"Idempotency-Key": "k"}).json()["forecasts"][0]["forecast_id"]
        for one in (shop, bank, rotated)
    ]
    assert ids[0] == ids[2] != ids[1]


def test_intervals_follow_their_owners_actuals_alone(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    wait_for_keys(shop, bank)
    before = bank.forecast()
    for _ in range(3):
        shop.send(shop.forecast(), 100.0)
    deadline = time.monotonic() + 30
    while not shop.forecast()["is_adapted"]:
        assert time.monotonic() < deadline
    for _ in range(5):
        now = bank.forecast()
        assert not now["is_adapted"]
        assert {name: now[name] for name in ("lo-80", "hi-80")} == {name: before[name] for name in ("lo-80", "hi-80")}


def test_requests_of_two_owners_in_one_run_keep_their_own_intervals(models: TrainedModels, engine: Engine) -> None:
    create_key(engine, "first", ["forecast"])
    app = create_app(settings(models, engine, batch_delay_seconds=0.05))
    with TestClient(app, raise_server_exceptions=False) as client, ThreadPoolExecutor(8) as pool:
        wait_until_ready(client)
        shop, bank = Client(client, engine, "shop"), Client(client, engine, "bank")
        wait_for_keys(shop, bank)
        shop.send(shop.forecast(), 100.0)
        app.state.forecast_service.learn()
        answers = list(pool.map(lambda one: one.forecast()["is_adapted"], [shop, bank] * 10))
    assert answers == [True, False] * 10


def test_evidence_is_judged_by_owner(service: TestClient, engine: Engine) -> None:
    good, bad = Client(service, engine, "good"), Client(service, engine, "bad")
    wait_for_keys(good, bad)
    start = (datetime.now(UTC) - timedelta(days=2)).strftime("%Y-%m-%dT%H:00:00")
    # so many right ones that all together are good
    for number in range(20):
        one = good.forecast(series=[series(unique_id=f"s{number}", start=start)])
        rows = [{"unique_id": one["unique_id"], "ds": ds, "y": y} for ds, y in zip(one["ds"], one["mean"], strict=True)]
        assert good.post("/v1/actuals", {"actuals": rows}).status_code == 200
    known = series(start=start)
    # hardly off the last value, which is the naive forecast
    bad.send(bad.forecast(series=[known]), known["y"][-1] + 0.001)

    def reasons() -> list[str]:
        with transaction(engine) as connection:
            return list(connection.execute(select(JOBS.c.reason)).scalars())

    deadline = time.monotonic() + 30
    while not reasons():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (reason,) = reasons()
    assert reason.startswith("version 1 asked by 'bad': realised relative_mae")


def test_keys_are_made_and_listed_with_their_owner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/service.db"
    made = []
    for words in (["--name", "shop"], ["--name", "new", "--owner", "shop"], ["--name", "me", "--owner", ""]):
        done = run_module("pipelines.keys", "create", *words, "--scope", "forecast", "--database", url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        made.append(json.loads(done.stdout.splitlines()[-1])["owner"])
    assert made == ["shop", "shop", ""]
    listed = run_module("pipelines.keys", "list", "--database", url, cwd=tmp_path)
    assert "owner" in listed.stdout.splitlines()[0]
    long = run_module(
        "pipelines.keys", "create", "--name", "a", "--owner", "o" * 201, "--scope", "all", "--database", url,
        cwd=tmp_path,
    )  # fmt: skip
    assert "owner: it has 201 characters" in long.stderr
