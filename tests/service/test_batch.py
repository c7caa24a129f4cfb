"""Batch forecasts: they equal the service's answers, and report the series that fail."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

from forecaster.database.schema import open_database
from forecaster.domain.config import load_config
from forecaster.domain.errors import ConfigError
from forecaster.inference.batch import BatchConfig, forecast_batch
from forecaster.ledger.adaptation import read_miscoverage_rates
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, TrainedModels, run_module
from tests.service.batches import as_series, assert_same, config, forecast, history, new_database, stored_forecasts
from tests.service.conftest import wait_until_ready
from tests.service.site import BARS, HOSTILE


@pytest.mark.parametrize("tz", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    "options", [{"level": [80, 95]}, {"quantiles": [0.1, 0.75]}, {"level": [50], "horizon": 6}, {"version": 2}]
)
def test_forecasts_of_a_file_equal_the_services_answer(
    client: TestClient, models: TrainedModels, tmp_path: Path, options: dict[str, Any], tz: str | None
) -> None:
    history(tz=tz).to_parquet(tmp_path / "h.parquet")
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    frame, batch = forecast(
        config(models.cache, tmp_path, **{"level": None, "data": data, "series_at_once": 2} | options)
    )
    answer = client.post("/v1/forecasts", json={"model": "sine", "series": as_series(history(tz=tz))} | options).json()
    assert_same(frame, answer)
    assert str(frame["ds"].dt.tz) == str(frame["cutoff"].dt.tz) == str(tz)
    head = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"forecaster"])
    assert {name: head[name] for name in ("model", "forecast_by", "skill", "warnings")} == {
        name: answer[name] for name in ("model", "forecast_by", "skill", "warnings")
    }
    assert (batch.done, batch.rows, batch.failed) == (3, len(frame), {})


@pytest.mark.parametrize("without_skill", ["model", "baseline"])
def test_forecasts_of_the_bar_store_equal_the_services_answer(
    site_settings: dict[str, Any], tmp_path: Path, without_skill: str
) -> None:
    settings = Settings(**site_settings, without_skill=without_skill)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        # all stored symbols, in the store's order
        request = {"model": "walk", "unique_ids": [HOSTILE, BARS], "level": [80]}
        answer = client.post("/v1/forecasts", json=request).json()
    data = {"source": "store", "folder": site_settings["bars_dir"]}
    changes = {"name": "walk", "data": data, "level": [80], "without_skill": without_skill}
    frame, _ = forecast(config(site_settings["cache_dir"], tmp_path, **changes))
    assert answer["forecast_by"] == ("naive" if without_skill == "baseline" else "model")
    assert_same(frame, answer)


def test_scores_in_the_ledger_adapt_intervals_as_in_the_service(models: TrainedModels, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/ledger.db"
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=database)
    request = {"model": "sine", "series": as_series(history()), "level": [50, 80, 95]}
    app = create_app(settings)
    with TestClient(app) as client:
        wait_until_ready(client)
        (served,) = client.post("/v1/forecasts", json=request | {"series": request["series"][:1]}).json()["forecasts"]
        actuals = [{"unique_id": "b", "ds": time, "y": 100.0} for time in served["ds"]]
        assert client.post("/v1/actuals", json={"actuals": actuals}).json()["accepted"] == len(actuals)
        # what the service does by itself each minute
        with open_database(database) as engine:
            app.state.forecast_service.queue.miscoverage_rates = {
                ("", "sine", 1): read_miscoverage_rates(engine, "sine", 1)
            }
        answer = client.post("/v1/forecasts", json=request).json()
    assert [served["is_adapted"] for served in answer["forecasts"]] == [True, False, False]
    history().to_csv(tmp_path / "h.csv", index=False)
    changes = {"data": {"source": "files", "path": tmp_path / "h.csv"}, "level": [50, 80, 95]}
    adapted, _ = forecast(config(models.cache, tmp_path, **changes), database)
    assert_same(adapted, answer)
    plain, _ = forecast(config(models.cache, tmp_path, **changes, adapt_intervals=False), database)
    assert not plain["is_adapted"].any()
    assert (adapted["hi-80"] > plain["hi-80"])[:4].all()


def test_settings_of_the_service_are_the_defaults_of_batches(
    site_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, database = (
        Path(shutil.copytree(site_settings["bars_dir"], tmp_path / "bars")),
        f"sqlite:///{tmp_path}/ledger.db",
    )
    tail = json.loads((bars / f"{BARS}.tail.json").read_text())
    (bars / "OLD.tail.json").write_text(json.dumps(tail | {"symbol": "OLD", "due_at": "2025-01-02T21:30:00+00:00"}))
    variables = {"BARS_DIR": bars, "STALE_AFTER_HOURS": "1e6", "WITHOUT_SKILL": "baseline", "ADAPT_INTERVALS": "false"}
    for name, value in variables.items():
        monkeypatch.setenv(f"FORECASTER_{name}", str(value))
    settings = Settings(cache_dir=site_settings["cache_dir"], tracking_uri="", database_url=database)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        request = {"model": "sine", "series": as_series(history()), "level": [80]}
        from_file = client.post("/v1/forecasts", json=request).json()
        actuals = [{"unique_id": "b", "ds": time, "y": 100.0} for time in from_file["forecasts"][0]["ds"]]
        assert client.post("/v1/actuals", json={"actuals": actuals}).json()["accepted"] == len(actuals)
        request = {"model": "walk", "unique_ids": [HOSTILE, "OLD", BARS], "level": [80]}
        from_store = client.post("/v1/forecasts", json=request).json()
    with open_database(database) as engine:
        assert read_miscoverage_rates(engine, "sine", 1)
    history().to_parquet(tmp_path / "h.parquet")
    for name, data, answer in (
        ("sine", {"source": "files", "path": tmp_path / "h.parquet"}, from_file),
        ("walk", {"source": "store"}, from_store),
    ):
        changes: dict[str, Any] = {"name": name, "data": data, "level": [80]}
        assert_same(forecast(config(settings.cache_dir, tmp_path, **changes), database)[0], answer)
    monkeypatch.setenv("FORECASTER_WITHOUT_SKILL", "neither")
    with pytest.raises(ConfigError, match=r"without_skill: .*'model' or 'baseline'"):
        config(settings.cache_dir, tmp_path, **changes)


def write_invalid_series(folder: Path) -> Path:
    """Write two valid series and four invalid series, each with its own mistake; return the file."""
    frame = history(("a", "hole", "b", "word", "short", "back"))
    name, row = frame["unique_id"], frame.groupby("unique_id").cumcount()
    frame["y"] = frame["y"].astype(str).mask((name == "word") & (row == 3), "many")
    frame["ds"] = frame["ds"].where(~((name == "back") & (row == 9)), pd.Timestamp("2026-03-01"))
    frame = frame[~((name == "hole") & (row == 5)) & ~((name == "short") & (row < 20))]
    frame.to_csv(folder / "series.csv", index=False)
    return folder / "series.csv"


REASONS = {
    "hole": "is not one step of h",
    "word": "y is not a finite number",
    "short": "needs 24",
    "back": "is earlier",
}


def test_invalid_series_are_reported_and_do_not_stop_the_others(models: TrainedModels, tmp_path: Path) -> None:
    job: dict[str, Any] = {
        "name": "sine",
        "data": {"source": "files", "path": str(write_invalid_series(tmp_path))},
        "tracking": {"uri": models.config.tracking.uri},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"forecast": job}))
    changes = ("--set", "out=f.parquet", "level=[80]")
    database = f"sqlite:///{tmp_path}/l.db"
    done = run_module("pipelines.forecast", "job.yaml", *changes, cwd=tmp_path, FORECASTER_DATABASE_URL=database)
    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["failed"].keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reason in answer["failed"][name]
        assert any(line.split()[:1] == [name] and reason in line for line in done.stdout.splitlines()[:-1])
    assert "series.csv" in answer["failed"]["word"]
    frame = pd.read_parquet(tmp_path / "f.parquet")
    history(("a", "hole", "b", "word", "short", "back")).query("unique_id in ('a', 'b')").to_parquet(
        tmp_path / "h.parquet"
    )
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    expected, _ = forecast(config(models.cache, tmp_path, data=data, level=[80]))
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    assert (answer["series"], answer["rows"], answer["entered"], answer["out"]) == (2, 8, 2, "f.parquet")

    before = (tmp_path / "f.parquet").read_bytes()
    strict = (*changes, "strict=true", "horizon=3")
    refused = run_module("pipelines.forecast", "job.yaml", *strict, cwd=tmp_path, FORECASTER_DATABASE_URL=database)
    assert refused.returncode == 1
    assert "4 of 6 series failed, and strict allows none: " in refused.stderr
    assert (tmp_path / "f.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".*.draft"))
    # a strict batch that fails writes nothing to the ledger
    assert len(stored_forecasts(database)) == 2


def test_stale_damaged_and_missing_symbols_do_not_stop_the_others(
    site_settings: dict[str, Any], tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(site_settings["bars_dir"], tmp_path / "bars"))
    tail = json.loads((bars / f"{BARS}.tail.json").read_text())
    (bars / "OLD.tail.json").write_text(json.dumps(tail | {"symbol": "OLD", "due_at": "2025-01-02T21:30:00+00:00"}))
    (bars / "HALF.tail.json").write_text('{"symbol": "HALF", "ds": [')
    data: dict[str, Any] = {"source": "store", "folder": bars}
    changes: dict[str, Any] = {"name": "walk", "level": [80], "data": data}
    frame, batch = forecast(config(site_settings["cache_dir"], tmp_path, **changes))
    assert batch.failed.keys() == {"OLD", "HALF"}
    assert "the next was complete at 2025-01-02T21:30:00" in batch.failed["OLD"]
    assert "cannot be read" in batch.failed["HALF"]
    assert set(frame["unique_id"]) == {BARS, HOSTILE}
    selection = {"data": data | {"symbols": [BARS, "NOBODY", "OLD"], "stale_after_hours": 1e6}}
    frame, batch = forecast(config(site_settings["cache_dir"], tmp_path, **changes | selection))
    assert frame["unique_id"].unique().tolist() == [BARS, "OLD"]
    assert batch.failed.keys() == {"NOBODY"}
    assert "is not in the bar store" in batch.failed["NOBODY"]


def test_interrupted_batch_keeps_the_old_file(models: TrainedModels, tmp_path: Path) -> None:
    history().to_parquet(tmp_path / "h.parquet")
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    job = config(models.cache, tmp_path, data=data, series_at_once=1)
    forecast(job)
    before = job.out.read_bytes()
    progress = []

    def stop(done: int, count: int) -> None:
        progress.append((done, count))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_batch(job, new_database(job), stop)
    # one series was in memory at a time
    assert progress == [(1, 3), (2, 3)]
    assert job.out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["database", "h.parquet", "out.parquet"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ("horizon=41", 1, "horizon: 41 is outside 1 to 40"),
        ("level=[99.9]", 1, "lies outside the calibrated range"),
        ("version=9", 1, "model 'sine' has no version 9"),
        ("futr={path: x.csv}", 1, "futr: the model takes no futr_exog; remove this key"),
        ("out=f.csv", 2, "out: must end with .parquet"),
        ("quantiles=[.5]", 2, "level and quantiles: give one of them"),
        ("data={source: store, symbols: [A, A]}", 2, "['A'] are repeated"),
        ("data={source: store, folder: empty}", 1, "nothing is stored in empty"),
    ],
)
def test_invalid_batch_fails_before_any_series_is_forecast(
    models: TrainedModels, tmp_path: Path, change: str, status: int, message: str
) -> None:
    history().to_csv(tmp_path / "h.csv", index=False)
    job = {"name": "sine", "data": {"source": "files", "path": "h.csv"}, "level": [80], "out": "f.parquet"}
    job |= {"cache": str(models.cache), "tracking": {"uri": ""}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = run_module("pipelines.forecast", "job.yaml", "--set", change, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "f.parquet").exists()


@pytest.mark.parametrize("name", ["sine", "stock"])
def test_shipped_jobs_have_a_batch(name: str) -> None:
    shipped = load_config(ROOT / "pipelines" / "configs" / f"{name}.yaml", BatchConfig, section="forecast")
    assert shipped.name == name
    assert shipped.level == (80, 95)
