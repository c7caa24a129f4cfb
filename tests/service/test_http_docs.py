"""docs/http-api.md: every documented request works, and every route has a documented request."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from forecaster.data.tails import file_name
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, TrainedModels
from tests.service.conftest import series, wait_until_ready
from tests.service.site import stored_tail

PAGE = (ROOT / "docs" / "http-api.md").read_text()
REQUESTS = re.findall(r"```http\n(GET|POST) (\S+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def client(models: TrainedModels, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "bars").mkdir()
    (tmp_path / "bars" / f"{file_name('ABC')}.tail.json").write_text(stored_tail("ABC").to_json())
    settings = Settings(
        cache_dir=models.cache,
        tracking_uri="",
        bars_dir=tmp_path / "bars",
        database_url=f"sqlite:///{tmp_path}/l.db",
    )
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        yield client


def fill_ellipses(body: str) -> str:
    """Return the body of a documented request with times and values instead of ellipses."""
    hours = series(24)
    times = ", ".join(json.dumps(f"{ds}Z") for ds in hours["ds"])
    values = ", ".join(map(str, hours["y"]))
    body = body.replace('["2026-01-01T00:00:00Z", …]', f"[{times}]").replace("[0.1, …]", f"[{values}]")
    return body.replace("[…]", f"[{values}]")


def test_documented_requests_work_and_cover_every_route(client: TestClient) -> None:
    ids = {"{symbol}": "ABC"}
    documented = set()
    # forecasts first, because other requests need their ids
    for method, template, body in sorted(REQUESTS, key=lambda request: request[:2] != ("POST", "/v1/forecasts")):
        path = template
        for name, value in ids.items():
            path = path.replace(name, value)
        answer = client.request(method, path, content=fill_ellipses(body) or None)
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        if (method, path) == ("POST", "/v1/forecasts"):
            ids["{forecast_id}"] = answer.json()["forecasts"][0]["forecast_id"]
        documented.add((method, path.partition("?")[0]))
    routes = {
        (method.upper(), re.sub(r"\{\w+\}", "[^/]+", path))
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    missing = {
        (method, path)
        for method, path in routes
        if not any(method == verb and re.fullmatch(path, example) for verb, example in documented)
    }
    assert missing == set()


def test_table_of_errors_lists_every_status(client: TestClient) -> None:
    statuses = {
        int(status)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        if not path.startswith(("/v2", "/health"))
        for operation in methods.values()
        for status in operation["responses"]
    }
    table = PAGE.partition("| status | when |")[2]
    named = {int(status) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for status in row.split(",")}
    assert statuses - {200} <= named
