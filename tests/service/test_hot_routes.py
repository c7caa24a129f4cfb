"""The hot route: forecasts are answered ahead of FastAPI's router, as the router would answer them."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import Service
from tests.service.conftest import forecast_request

PATH = "/v1/forecasts"


def test_forecasts_are_answered_ahead_of_the_router(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise AssertionError("the router was asked")

    assert isinstance(client.app, Service)
    monkeypatch.setattr(client.app.router, "middleware_stack", refuse)
    assert client.post(PATH, json=forecast_request()).status_code == 200
    # other methods and paths are the router's
    for response in (client.get(PATH), client.put(PATH), client.post(f"{PATH}/")):
        assert response.status_code == 500


@pytest.mark.parametrize(
    "body", [forecast_request(), forecast_request(model="unknown"), forecast_request(series=[]), [], "text"]
)
def test_the_router_gives_the_same_answer(client: TestClient, monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    def answer() -> tuple[int, dict[str, str], Any]:
        response = client.post(PATH, json=body)
        content = response.json()
        for forecast in content.get("forecasts", []):
            del forecast["forecast_id"]
        headers = {
            name: value for name, value in response.headers.items() if name not in ("x-request-id", "content-length")
        }
        return response.status_code, headers, content

    ahead = answer()
    assert isinstance(client.app, Service)
    edge: Any = client.app.edge
    monkeypatch.setattr(edge._app, "_routes", {})
    assert answer() == ahead


def test_the_hot_route_is_documented(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"][PATH]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ForecastRequest")


def test_metrics_name_the_hot_route(client: TestClient) -> None:
    client.post(PATH, json=forecast_request())
    assert f'method="POST",route="{PATH}",status="200"' in client.get("/metrics").text
