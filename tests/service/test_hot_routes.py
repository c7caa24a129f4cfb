"""The hot route: forecasts are answered ahead of FastAPI's router, as the router would answer them."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.service.conftest import forecast_request

PATH = "/v1/forecasts"


def test_forecasts_are_answered_ahead_of_the_router(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise AssertionError("the router was asked")

    assert isinstance(client.app, FastAPI)
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
    hot_routes = _hot_routes(client)
    monkeypatch.setattr(hot_routes, "_routes", {})
    assert answer() == ahead


def _hot_routes(client: TestClient) -> Any:
    layer: Any = client.app.middleware_stack  # type: ignore[attr-defined]
    while type(layer).__name__ != "HotRoutes":
        layer = getattr(layer, "app", None) or layer._app
    return layer


def test_the_hot_route_is_documented(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"][PATH]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ForecastRequest")


def test_metrics_name_the_hot_route(client: TestClient) -> None:
    client.post(PATH, json=forecast_request())
    assert f'method="POST",route="{PATH}",status="200"' in client.get("/metrics").text
