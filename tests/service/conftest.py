"""A client of the real application, serving the session's house."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import House


def series(length: int = 30, unique_id: str = "a", start: str = "2026-01-01T00:00:00") -> dict[str, Any]:
    """Return a request's hourly series of `length` rows."""
    first = datetime.fromisoformat(start)
    times = [(first + timedelta(hours=row)).isoformat() for row in range(length)]
    return {"unique_id": unique_id, "ds": times, "y": [float(row % 12) / 6 - 1 for row in range(length)]}


def ask(**changes: Any) -> dict[str, Any]:
    """Return a good request with some fields changed."""
    return {"model": "sine", "series": [series()], "horizon": 4, "level": [80]} | changes


@pytest.fixture(scope="session")
def client(house: House) -> Iterator[TestClient]:
    settings = Settings(cache_dir=house.cache, tracking_uri="", max_series=50, max_body_bytes=200_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        for _ in range(100):
            if client.get("/health/ready").status_code == 200:
                break
        yield client
