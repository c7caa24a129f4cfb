"""GET /v1/series: the stored series and their bars."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from forecaster.data.tails import file_name, read_tail
from service.app import create_app
from service.settings import Settings
from tests.service.site import BARS, stored_tail


@pytest.fixture
def bars(tmp_path: Path) -> Iterator[tuple[TestClient, Path]]:
    """Yield a client of a service without models, and the folder of its empty bar store."""
    settings = Settings(cache_dir=tmp_path / "cache", bars_dir=tmp_path / "bars", tracking_uri="")
    settings.bars_dir.mkdir()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client, settings.bars_dir


@pytest.mark.parametrize("symbol", [BARS, "BTC/USD", "^VIX", "ä b", "..", "brk.b"])
def test_stored_series_is_listed_and_read(bars: tuple[TestClient, Path], symbol: str) -> None:
    client, folder = bars
    (folder / f"{file_name(symbol)}.tail.json").write_text(stored_tail(symbol).to_json())
    assert client.get("/v1/series").json() == {"series": [symbol]}
    quoted = symbol.encode().hex("%", 1)
    found: dict[str, Any] = client.get(f"/v1/series/%{quoted}").json()
    tail = read_tail(folder, symbol)
    assert found.pop("unique_id") == symbol
    assert found.pop("ds") == [str(day) for day in tail.days]
    assert found == {name: column.tolist() for name, column in tail.bars.items()}


def test_series_are_sorted_and_other_files_are_ignored(bars: tuple[TestClient, Path]) -> None:
    client, folder = bars
    for name in ("b", "a"):
        (folder / f"{file_name(name)}.tail.json").write_text(stored_tail(name).to_json())
    (folder / ".A.tail.json.draft").write_text("half")
    (folder / "A.lock").touch()
    assert client.get("/v1/series").json() == {"series": ["a", "b"]}


def test_missing_store_has_no_series(bars: tuple[TestClient, Path]) -> None:
    client, folder = bars
    folder.rmdir()
    assert client.get("/v1/series").json() == {"series": []}


def test_unknown_series_is_not_found(bars: tuple[TestClient, Path]) -> None:
    answer = bars[0].get("/v1/series/NOPE")
    assert answer.status_code == 404
    assert "NOPE" in answer.json()["detail"]
