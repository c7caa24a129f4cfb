"""Stocks: fetch prices from a simulated Yahoo, train on the bar store, and forecast over HTTP by `unique_ids`."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from starlette.testclient import TestClient

from forecaster.data.calendars import get_calendar
from forecaster.data.hold import Hold
from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.inference.predictor import load_predictor
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, run_module
from tests.data.fake_yahoo import Yahoo, serve_yahoo
from tests.data.prices import Company
from tests.service.conftest import wait_until_ready


def _run(folder: Path, module: str, *arguments: object) -> dict[str, Any]:
    done = run_module(module, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stocks")
    last = str(get_calendar("XNYS").last_completed(datetime.now(UTC)))
    company = Company(symbol="ABC", first="2022-01-03", last=last, dividends={"2024-06-13": 2.0})
    with serve_yahoo(Yahoo({"ABC": company.bars()})) as yahoo:
        job = {"symbols": ["ABC"], "start": "2022-01-03", "session": {"origin": yahoo.url, "pause_seconds": 0}}
        (folder / "fetch.yaml").write_text(yaml.safe_dump(job))
        _run(folder, "pipelines.fetch", "fetch.yaml")
    exogenous = ["hist_exog=[volume, range_within]", "calendar_features=[day_of_week, sessions_until_holiday]"]
    changes = ["data={source: store, symbols: [ABC]}", "fit.epochs=1", *exogenous]
    _run(folder, "pipelines.train", ROOT / "pipelines" / "configs" / "stock.yaml", "--set", *changes)
    _run(folder, "pipelines.promote", ROOT / "pipelines" / "configs" / "stock.yaml", "--without-gate")
    sync(Store(f"sqlite:///{folder}/mlruns/mlflow.db"), folder / "mlruns" / "cache")
    return folder


def _client(folder: Path, bars: Path, **settings: Any) -> TestClient:
    cache = folder / "mlruns" / "cache"
    return TestClient(create_app(Settings(cache_dir=cache, tracking_uri="", bars_dir=bars, **settings)))


def _post(client: TestClient, **changes: Any) -> Any:
    wait_until_ready(client)
    return client.post("/v1/forecasts", json={"model": "stock", "level": [80], **changes})


def test_stored_symbol_is_forecast_on_future_sessions(folder: Path) -> None:
    mlruns = folder / "mlruns"
    predictor = load_predictor("stock", tracking_uri=f"sqlite:///{mlruns}/mlflow.db", cache=mlruns / "cache")
    bars = BarStore(mlruns / "bars").read("ABC")
    assert bars is not None
    assert list(predictor.manifest.hist_exog) == ["volume", "range_within"]
    expected = predictor.predict_frame(bars.long_frame(["volume", "range_within"]), level=(80,))
    with _client(folder, mlruns / "bars") as client:
        answer = _post(client, unique_ids=["ABC"]).json()
    (forecast,) = answer["forecasts"]
    assert forecast["mean"] == expected["mean"].tolist()
    assert forecast["lo-80"] == expected["lo-80"].tolist()
    sessions = get_calendar("XNYS").after(bars.sessions[-1], 5)
    assert forecast["ds"] == [f"{day}T00:00:00" for day in sessions]
    assert forecast["ds"] == expected["ds"].dt.strftime("%Y-%m-%dT%H:%M:%S").tolist()


def test_stale_symbol_is_refused(folder: Path, tmp_path: Path) -> None:
    bars = Path(shutil.copytree(folder / "mlruns" / "bars", tmp_path / "bars"))
    tail = read_tail(bars, "ABC")
    content = json.loads(tail.to_json()) | {"due_at": "2025-01-02T21:30:00+00:00"}
    (bars / "ABC.tail.json").write_text(json.dumps(content))
    with _client(folder, bars) as client:
        answer = _post(client, unique_ids=["ABC"])
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"ABC: the store ends with session {tail.days[-1]}" in answer.json()["detail"]
    assert "complete at 2025-01-02T21:30:00+00:00" in answer.json()["detail"]


def test_held_symbol_is_not_forecast_but_its_bars_are_served(folder: Path, tmp_path: Path) -> None:
    store = BarStore(Path(shutil.copytree(folder / "mlruns" / "bars", tmp_path / "bars")))
    bars = store.read("ABC")
    assert bars is not None
    hold = Hold(("2026-01-05",), "the close goes from 177 to 17700 (×100) on 2026-01-05")
    store.write(replace(bars, held=hold), datetime(2999, 1, 1, tzinfo=UTC))
    with _client(folder, store.folder) as client:
        answer = _post(client, unique_ids=["ABC"])
        served = client.get("/v1/series/ABC").json()
    assert answer.status_code == 409
    assert "ABC: held back from 2026-01-05 on: the close goes from 177 to 17700" in answer.json()["detail"]
    assert "--confirm ABC:2026-01-05" in answer.json()["detail"]
    assert served["ds"][-1] == str(bars.sessions[-1])


def test_invalid_unique_ids_are_refused(folder: Path) -> None:
    series = {"unique_id": "ABC", "ds": ["2026-01-02"], "y": [1.0]}
    with _client(folder, folder / "mlruns" / "bars", max_series=3) as client:
        for changes, status, detail in (
            ({"unique_ids": ["NOBODY"]}, 404, "NOBODY: is not in the bar store"),
            ({"unique_ids": ["../../etc/passwd"]}, 404, "is not in the bar store"),
            ({"unique_ids": ["ABC", "ABC"]}, 422, "unique_ids[1]: 'ABC' is also unique_ids[0]"),
            ({"unique_ids": ["A", "B", "C", "D"]}, 422, "unique_ids: 4 series, at most 3"),
            ({"unique_ids": []}, 422, "unique_ids"),
            ({"unique_ids": ["ABC"], "series": [series]}, 422, "series and unique_ids: give exactly one of them"),
            ({}, 422, "series and unique_ids: give exactly one of them"),
        ):
            answer = _post(client, **changes)
            assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.json()


def test_training_refuses_stale_and_unknown_symbols(folder: Path, tmp_path: Path) -> None:
    config = ROOT / "pipelines" / "configs" / "stock.yaml"
    store = BarStore(tmp_path / "bars")
    with store.lock("OLD"):
        store.write(Company(symbol="OLD").bars(), datetime(2025, 1, 2, tzinfo=UTC))
    for symbol, message in (("OLD", "OLD: ends on 2024-12-31 and lacks"), ("NOBODY", "NOBODY: is not in")):
        data = f"data={{source: store, symbols: [{symbol}], folder: {json.dumps(str(tmp_path / 'bars'))}}}"
        done = run_module("pipelines.train", config, "--set", data, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert Store(uri).names() == []
    client = mlflow.MlflowClient(uri)
    assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
