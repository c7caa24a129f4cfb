"""Owners are isolated: forecasts, actuals, skill, drift, intervals and evidence of an owner are its own."""

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
from tests.service.conftest import forecast_request, series, wait_until_ready

BOTH = ("forecast", "actuals")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/l.db")
    upgrade_schema(engine)
    yield engine
    engine.dispose()


class Client:
    """A client with an API key of its own."""

    def __init__(self, client: TestClient, engine: Engine, name: str, *more: str, owner: str | None = None) -> None:
        key = create_key(engine, name, [*BOTH, *more], owner)
        self.client, self.headers = client, {"Authorization": f"Bearer {key}"}

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, params=params, headers=self.headers)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.client.post(path, json=body, headers={**self.headers, **headers})

    def forecast(self, **changes: Any) -> dict[str, Any]:
        answer = self.post("/v1/forecasts", forecast_request(**changes))
        assert answer.status_code == 200, answer.text
        forecast: dict[str, Any] = answer.json()["forecasts"][0]
        return forecast

    def send(self, forecast: dict[str, Any], y: float) -> None:
        rows = [{"unique_id": forecast["unique_id"], "ds": ds, "y": y} for ds in forecast["ds"]]
        assert self.post("/v1/actuals", {"actuals": rows}).status_code == 200

    def realised(self) -> list[dict[str, Any]]:
        realised: list[dict[str, Any]] = self.get("/v1/skill", model="sine").json()["realised"]
        return realised


def settings(models: TrainedModels, engine: Engine, **changes: Any) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    return Settings(cache_dir=models.cache, tracking_uri="", database_url=url, keys_refresh_seconds=0.05, **changes)


@pytest.fixture
def service(models: TrainedModels, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.1)
    # a first key, so that the service requires keys from the start
    create_key(engine, "first", ["forecast"])
    with TestClient(
        create_app(settings(models, engine, evidence_scores=4, evidence_coverage=1)),
        raise_server_exceptions=False,
    ) as client:
        wait_until_ready(client)
        yield client


def wait_for_keys(*clients: Client) -> None:
    deadline = time.monotonic() + 30
    while any(client.get("/v1/models").status_code != 200 for client in clients):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_owner_cannot_read_another_owners_data(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    rotated = Client(service, engine, "shop of next year", owner="shop")
    operator = Client(service, engine, "operator", "all")
    wait_for_keys(shop, bank, rotated, operator)
    forecast = shop.forecast()
    path = f"/v1/forecasts/{forecast['forecast_id']}"
    hidden, unknown = bank.get(path), bank.get("/v1/forecasts/nothing-0")
    assert (hidden.status_code, unknown.status_code) == (404, 404)
    assert hidden.json()["detail"] == unknown.json()["detail"].replace("nothing-0", forecast["forecast_id"])
    assert bank.get("/v1/forecasts", model="sine", unique_id="a").json()["forecasts"] == []
    assert bank.get("/v1/drift", model="sine").json()["versions"] == []
    # actuals of another owner do not score this forecast
    bank.send(forecast, 100.0)
    assert shop.get(path).json()["actual"] == [None] * 4
    assert shop.realised() == bank.realised() == operator.realised() == []
    shop.send(forecast, 1.0)
    assert shop.realised()[0]["n_scores"] == 4
    assert bank.realised() == []
    for other in (rotated, operator):
        assert other.get(path).json()["actual"] == [1.0] * 4
        assert other.realised() == shop.realised()
        assert len(other.get("/v1/forecasts", model="sine", unique_id="a").json()["forecasts"]) == 1
        assert other.get("/v1/drift", model="sine").json() == shop.get("/v1/drift", model="sine").json()
    assert shop.get("/v1/drift", model="sine").json()["versions"] != []


def test_actuals_with_scope_all_score_every_owners_forecasts(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    operator = Client(service, engine, "operator", "all")
    wait_for_keys(shop, bank, operator)
    of_shop, of_bank = shop.forecast(), bank.forecast()
    operator.send(of_shop, 1.0)
    assert shop.get(f"/v1/forecasts/{of_shop['forecast_id']}").json()["actual"] == [1.0] * 4
    assert bank.get(f"/v1/forecasts/{of_bank['forecast_id']}").json()["actual"] == [1.0] * 4
    assert operator.realised()[0]["n_scores"] == 8


def test_idempotency_key_belongs_to_an_owner(service: TestClient, engine: Engine) -> None:
    shop, bank = Client(service, engine, "shop"), Client(service, engine, "bank")
    rotated = Client(service, engine, "shop of next year", owner="shop")
    wait_for_keys(shop, bank, rotated)
    key = {"Idempotency-Key": "k"}
    answers = [client.post("/v1/forecasts", forecast_request(), **key).json() for client in (shop, bank, rotated)]
    ids = [answer["forecasts"][0]["forecast_id"] for answer in answers]
    assert ids[0] == ids[2] != ids[1]


def test_intervals_adapt_only_to_the_owners_actuals(service: TestClient, engine: Engine) -> None:
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


def test_owners_in_one_batch_keep_their_own_intervals(models: TrainedModels, engine: Engine) -> None:
    create_key(engine, "first", ["forecast"])
    app = create_app(settings(models, engine, batch_delay_seconds=0.05))
    with TestClient(app, raise_server_exceptions=False) as client, ThreadPoolExecutor(8) as pool:
        wait_until_ready(client)
        shop, bank = Client(client, engine, "shop"), Client(client, engine, "bank")
        wait_for_keys(shop, bank)
        shop.send(shop.forecast(), 100.0)
        app.state.forecast_service.load_miscoverage_rates()
        answers = list(pool.map(lambda owner: owner.forecast()["is_adapted"], [shop, bank] * 10))
    assert answers == [True, False] * 10


def test_evidence_is_judged_by_owner(service: TestClient, engine: Engine) -> None:
    good, bad = Client(service, engine, "good"), Client(service, engine, "bad")
    wait_for_keys(good, bad)
    start = (datetime.now(UTC) - timedelta(days=2)).strftime("%Y-%m-%dT%H:00:00")
    # so many good forecasts that the skill over both owners is good
    for number in range(20):
        forecast = good.forecast(series=[series(unique_id=f"s{number}", start=start)])
        rows = [
            {"unique_id": forecast["unique_id"], "ds": ds, "y": y}
            for ds, y in zip(forecast["ds"], forecast["mean"], strict=True)
        ]
        assert good.post("/v1/actuals", {"actuals": rows}).status_code == 200
    known = series(start=start)
    # actuals close to the last value, so the naive forecast beats the model
    bad.send(bad.forecast(series=[known]), known["y"][-1] + 0.001)

    def requested_retrainings() -> list[str]:
        with transaction(engine) as connection:
            return list(connection.execute(select(JOBS.c.reason)).scalars())

    deadline = time.monotonic() + 30
    while not requested_retrainings():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (reason,) = requested_retrainings()
    assert reason.startswith("version 1 in requests of 'bad': realised relative_mae")


def test_keys_command_creates_and_lists_keys_with_owners(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/service.db"
    owners = []
    for options in (["--name", "shop"], ["--name", "new", "--owner", "shop"], ["--name", "me", "--owner", ""]):
        done = run_module("pipelines.keys", "create", *options, "--scope", "forecast", "--database", url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        owners.append(json.loads(done.stdout.splitlines()[-1])["owner"])
    assert owners == ["shop", "shop", ""]
    listed = run_module("pipelines.keys", "list", "--database", url, cwd=tmp_path)
    assert "owner" in listed.stdout.splitlines()[0]
    long = run_module(
        "pipelines.keys", "create", "--name", "a", "--owner", "o" * 201, "--scope", "all", "--database", url,
        cwd=tmp_path,
    )  # fmt: skip
    assert "owner: it has 201 characters" in long.stderr
