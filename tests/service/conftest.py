"""Fixtures of the service tests: requests, clients, and a browser."""

import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.site import create_site, serving


def series(length: int = 30, unique_id: str = "a", start: str = "2026-01-01T00:00:00") -> dict[str, Any]:
    """Return an hourly series for a request, with `length` rows."""
    first = datetime.fromisoformat(start)
    times = [(first + timedelta(hours=row)).isoformat() for row in range(length)]
    return {"unique_id": unique_id, "ds": times, "y": [float(row % 12) / 6 - 1 for row in range(length)]}


def forecast_request(**changes: Any) -> dict[str, Any]:
    """Return the body of a valid forecast request, with some fields changed."""
    return {"model": "sine", "series": [series()], "horizon": 4, "level": [80]} | changes


def wait_until_ready(client: TestClient) -> None:
    """Wait until readiness is 200."""
    deadline = time.monotonic() + 60
    while client.get("/health/ready").status_code != 200:
        assert time.monotonic() < deadline, "never ready"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def client(models: TrainedModels) -> Iterator[TestClient]:
    settings = Settings(cache_dir=models.cache, tracking_uri="", max_series=50, max_body_bytes=200_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="session")
def site_settings(models: TrainedModels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the settings of a service with two models and stored series."""
    return create_site(tmp_path_factory.mktemp("site"), models)


@pytest.fixture(scope="module")
def site(site_settings: dict[str, Any]) -> Iterator[str]:
    """Yield the URL of a service with two models and stored series."""
    with serving(Settings(**site_settings)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield the system's Chromium. Module scope, because Playwright keeps an event loop in this thread."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed here (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield a page in its own browser context."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()
