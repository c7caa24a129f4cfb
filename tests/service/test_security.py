"""Security: API keys, scopes, rate limit, host and origin checks, and response headers."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from forecaster.database.engine import open_engine
from forecaster.database.keys import SCOPES, create_key, read_keys, revoke_key
from forecaster.database.schema import upgrade_schema
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, run_module
from tests.service.conftest import forecast_request, wait_until_ready


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/service.db"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    upgrade_schema(engine)
    yield engine
    engine.dispose()


def serve(models: TrainedModels, url: str, **settings: Any) -> TestClient:
    defaults = {"cache_dir": models.cache, "tracking_uri": "", "database_url": url, "keys_refresh_seconds": 0.05}
    return TestClient(create_app(Settings(**{**defaults, **settings})), raise_server_exceptions=False)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_key_is_stored_as_a_digest_and_shown_once(engine: Engine, url: str, tmp_path: Path) -> None:
    done = run_module(
        "pipelines.keys", "create", "--name", "shop", "--scope", "forecast", cwd=tmp_path, FORECASTER_DATABASE_URL=url
    )
    assert done.returncode == 0, done.stderr
    key = done.stdout.partition('"key": "')[2].partition('"')[0]
    (stored,) = read_keys(engine)
    secret = key.split("_", 2)[2]
    assert (stored.name, stored.scopes, stored.revoked_at) == ("shop", ("forecast",), None)
    engine.dispose()
    content = b"".join(file.read_bytes() for file in tmp_path.glob("service.db*"))
    assert stored.digest.encode() in content
    assert secret.encode() not in content
    listed = run_module("pipelines.keys", "list", "--database", url, cwd=tmp_path)
    assert "shop" in listed.stdout
    assert secret not in listed.stdout + listed.stderr
    revoked = run_module("pipelines.keys", "revoke", stored.key_id, "--database", url, cwd=tmp_path)
    assert revoked.returncode == 0
    assert read_keys(engine)[0].revoked_at is not None
    again = run_module("pipelines.keys", "revoke", stored.key_id, "--database", url, cwd=tmp_path)
    assert "revoked before" in again.stderr


ROUTES = [
    ("forecast", "POST", "/v1/forecasts"),
    ("forecast", "GET", "/v1/forecasts?model=sine&unique_id=a"),
    ("forecast", "GET", "/v1/forecasts/abc"),
    ("forecast", "GET", "/v1/models"),
    ("forecast", "GET", "/v1/models/sine"),
    ("forecast", "GET", "/v1/skill?model=sine"),
    ("forecast", "GET", "/v1/drift?model=sine"),
    ("forecast", "GET", "/v1/series"),
    ("forecast", "GET", "/v1/series/A"),
    ("forecast", "GET", "/v1/dashboard-settings"),
    ("forecast", "GET", "/v2"),
    ("forecast", "GET", "/v2/models/sine"),
    ("forecast", "GET", "/v2/models/sine/ready"),
    ("forecast", "POST", "/v2/models/sine/infer"),
    ("forecast", "GET", "/v2/models/sine/versions/1"),
    ("forecast", "GET", "/v2/models/sine/versions/1/ready"),
    ("forecast", "POST", "/v2/models/sine/versions/1/infer"),
    ("forecast", "GET", "/v1/models/sine/versions/1/example"),
    ("actuals", "POST", "/v1/actuals"),
    ("admin", "GET", "/metrics"),
]


@pytest.mark.parametrize(("scope", "method", "path"), ROUTES)
def test_route_requires_its_scope(
    models: TrainedModels, engine: Engine, url: str, scope: str, method: str, path: str
) -> None:
    keys = {key_scope: create_key(engine, key_scope, [key_scope]) for key_scope in SCOPES}
    with serve(models, url) as client:
        wait_until_ready(client)
        assert client.request(method, path).status_code == 401
        for key_scope, key in keys.items():
            status = client.request(method, path, headers=bearer(key)).status_code
            assert (status == 403) == (key_scope != scope)
            assert status != 401


def test_only_health_routes_are_public(models: TrainedModels, url: str) -> None:
    with serve(models, url) as client:
        paths = set(client.get("/openapi.json").json()["paths"])
    examples = {"/abc": "/{forecast_id}", "/sine": "/{name}", "/versions/1": "/versions/{version}"}
    examples |= {"/A": "/{unique_id}"}
    with_scope = set()
    for _, _, path in ROUTES:
        template = path.partition("?")[0]
        for value, parameter in examples.items():
            template = template.replace(value, parameter)
        with_scope.add(template)
    assert paths - with_scope == {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
    assert with_scope <= paths


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Basic abc",
        "Bearer fc_x_y",
        "Bearer {id}",
        "Bearer fc_{id}_",
        "fc_{id}_{secret}",
        "Bearer fc_{id}_{other}",
    ],
)
def test_invalid_key_is_refused(models: TrainedModels, engine: Engine, url: str, authorization: str) -> None:
    _, key_id, secret = create_key(engine, "one", ["forecast"]).split("_", 2)
    header = authorization.format(id=key_id, secret=secret, other=secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    with serve(models, url) as client:
        wait_until_ready(client)
        answer = client.post("/v1/forecasts", json=forecast_request(), headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert secret not in answer.text


def test_revoked_key_is_refused_without_a_restart(models: TrainedModels, engine: Engine, url: str) -> None:
    key, other = (create_key(engine, name, ["forecast"]) for name in "ab")
    with serve(models, url) as client:
        wait_until_ready(client)
        first = client.post("/v1/forecasts", json=forecast_request(), headers=bearer(key) | {"Idempotency-Key": "k"})
        second = client.post("/v1/forecasts", json=forecast_request(), headers=bearer(other) | {"Idempotency-Key": "k"})
        assert (first.status_code, second.status_code) == (200, 200)
        # idempotency keys of different owners are independent
        assert first.json()["forecasts"][0]["forecast_id"] != second.json()["forecasts"][0]["forecast_id"]
        revoke_key(engine, key.split("_")[1])
        deadline = time.monotonic() + 10
        while client.get("/v1/models", headers=bearer(key)).status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert client.get("/v1/models", headers=bearer(key)).status_code == 401
        # a service whose keys are all revoked stays closed
        revoke_key(engine, other.split("_")[1])
        time.sleep(0.3)
        assert client.get("/v1/models").status_code == 401


def test_service_beyond_loopback_requires_a_key(engine: Engine, url: str, models: TrainedModels) -> None:
    assert not Settings(host="0.0.0.0").is_loopback
    with serve(models, url, host="0.0.0.0") as client:
        wait_until_ready(client)
        assert client.post("/v1/forecasts", json=forecast_request()).status_code == 401
        key = create_key(engine, "one", ["forecast"])
        time.sleep(0.3)
        assert client.post("/v1/forecasts", json=forecast_request(), headers=bearer(key)).status_code == 200


def test_rate_limit_returns_retry_after(models: TrainedModels, engine: Engine, url: str) -> None:
    key, other = (create_key(engine, name, ["forecast"]) for name in "ab")
    with serve(models, url, rate_limit="3/minute") as client:
        wait_until_ready(client)
        statuses = [client.get("/v1/models", headers=bearer(key)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = client.get("/v1/models", headers=bearer(key))
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert client.get("/v1/models", headers=bearer(other)).status_code == 200
        assert client.get("/health/live").status_code == 200


def test_concurrent_forecasts_are_limited(models: TrainedModels, url: str) -> None:
    with serve(models, url, max_concurrent=1) as client, ThreadPoolExecutor(8) as pool:
        wait_until_ready(client)
        answers = list(pool.map(lambda _: client.post("/v1/forecasts", json=forecast_request()), range(40)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 503}
        assert all(answer.headers["Retry-After"] == "1" for answer in answers if answer.status_code == 503)
        # the limit is no longer reached
        assert client.post("/v1/forecasts", json=forecast_request()).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_service_without_keys_accepts_only_loopback_hosts(
    models: TrainedModels, url: str, monkeypatch: pytest.MonkeyPatch, host: str, status: int
) -> None:
    monkeypatch.delenv("FORECASTER_ALLOWED_HOSTS")
    with serve(models, url) as client:
        assert client.get("/health/live", headers={"Host": host}).status_code == status


def test_every_response_has_security_headers(models: TrainedModels, url: str) -> None:
    with serve(models, url) as client:
        wait_until_ready(client)
        answers = [
            client.get("/health/live"),
            client.get("/nowhere"),
            client.post("/v1/forecasts", content=b"{"),
            client.get("/v1/models", headers={"Host": "x"}),
        ]
        for answer in answers:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["X-Request-ID"]
        named = client.get("/health/live", headers={"X-Request-ID": "mine-1"})
        assert named.headers["X-Request-ID"] == "mine-1"
        forged = client.get("/health/live", headers={"X-Request-ID": "two words"})
        assert forged.headers["X-Request-ID"] != "two words"


def test_max_points_limits_the_answer(models: TrainedModels, url: str) -> None:
    with serve(models, url, max_points=3) as client:
        wait_until_ready(client)
        answer = client.post("/v1/forecasts", json=forecast_request())
    assert answer.status_code == 422
    assert "1 series of 4 steps in 4 columns are more than 3 points" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://behind.a.proxy", "Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 200),
    ],
)
def test_cross_site_writes_are_refused(models: TrainedModels, url: str, headers: dict[str, str], status: int) -> None:
    with serve(models, url) as client:
        wait_until_ready(client)
        body = {"actuals": [{"unique_id": "a", "ds": "2026-01-01", "y": 1}]}
        assert client.post("/v1/actuals", json=body, headers=headers).status_code == status
        assert client.get("/health/live", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/actuals", '{"actuals": [{"unique_id": "a\\u0000b", "ds": "2026-01-01", "y": 1}]}', 422),
        ("POST", "/v1/actuals", '{"actuals": [{"unique_id": "a", "ds": "0001-01-01T00:00:00+05:00", "y": 1}]}', 200),
        ("POST", "/v1/actuals", '{"actuals": [{"unique_id": "a", "ds": "9999-12-31T23:00:00-05:00", "y": 1}]}', 200),
        ("POST", "/v1/actuals", '{"actuals": [{"unique_id": "a", "ds": "2026-01-01", "y": 1.7e308}]}', 422),
        ("GET", "/v1/forecasts/a%00b", None, 422),
        ("GET", "/v1/forecasts?model=sine&unique_id=%00", None, 422),
        ("GET", "/v1/skill?model=sine&version=99999999999999999999", None, 422),
        ("GET", "/v1/skill?model=sine&since=12", None, 422),
        ("GET", f"/v1/series/{'a' * 5000}", None, 422),
    ],
)
def test_extreme_values_never_cause_a_server_error(
    models: TrainedModels, url: str, method: str, path: str, body: str | None, status: int
) -> None:
    with serve(models, url) as client:
        wait_until_ready(client)
        answer = client.request(method, path, content=body)
    assert answer.status_code == status, answer.text
    assert "/" not in answer.json().get("detail", "")


def test_only_the_first_of_many_invalid_values_is_listed(models: TrainedModels, url: str) -> None:
    bodies = [
        '{"model": "sine", "series": [{"unique_id": "a", "ds": [' + ",".join(["1"] * 10**6) + '], "y": []}]}',
        '{"actuals": [' + ",".join(["1"] * 10**6) + "]}",
    ]
    with serve(models, url, max_values=10**7) as client:
        wait_until_ready(client)
        for path, body in zip(("/v1/forecasts", "/v1/actuals"), bodies, strict=True):
            answer = client.post(path, content=body)
            assert answer.status_code == 422
            # the first invalid value, and a missing field
            assert len(answer.json()["errors"]) <= 2


def test_unexpected_error_has_headers_but_no_details(
    models: TrainedModels, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models, url) as client:
        wait_until_ready(client)
        monkeypatch.setattr("service.forecast_queue.forecast", lambda *arguments: 1 / 0)
        answer = client.post("/v1/forecasts", json=forecast_request(), headers={"X-Request-ID": "mine"})
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == "mine"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.json()["detail"] == "unexpected error; see the service's log"
