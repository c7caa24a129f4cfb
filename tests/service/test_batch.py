"""A batch writes what the service answers, series by series; what cannot be forecast is named and leaves the others."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

from forecaster.database.schema import open_database
from forecaster.domain.config import build_config, load_config
from forecaster.domain.errors import ConfigError
from forecaster.inference.batch import Batch, BatchConfig, forecast_batch
from forecaster.ledger.adaptation import read_miscoverage_rates
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, TrainedModels, run_module
from tests.service.conftest import wait_until_ready
from tests.service.site import BARS, HOSTILE

HOURS = 30
# the third series ends where the clocks of Europe change
FIRST = pd.Timestamp("2026-03-26T01:00")


def history(names: tuple[str, ...] = ("b", "a", "c"), tz: str | None = None) -> pd.DataFrame:
    """Return interleaved series of each its own end."""
    random = np.random.default_rng(1)
    parts = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range(FIRST + pd.Timedelta(days=number), periods=HOURS, freq="h", tz=tz),
                "y": random.normal(size=HOURS),
            }
        )
        for number, name in enumerate(names)
    ]
    return pd.concat(parts).sort_values(["ds", "unique_id"]).reset_index(drop=True)


def config(cache: Path, folder: Path, **changes: Any) -> BatchConfig:
    raw = {"name": "sine", "level": [80, 95], "out": folder / "out.parquet", "cache": cache, "tracking": {"uri": ""}}
    return build_config(raw | changes, BatchConfig, "test")


def forecast(config: BatchConfig, database: str = "sqlite:///nowhere.db") -> tuple[pd.DataFrame, Batch]:
    batch = forecast_batch(config, database, lambda done, count: None)
    return pd.read_parquet(config.out), batch


def sent(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as a request's series."""
    return [
        {"unique_id": name, "ds": [time.isoformat() for time in rows["ds"]], "y": rows["y"].tolist()}
        for name, rows in frame.groupby("unique_id", sort=False)
    ]


def assert_same(frame: pd.DataFrame, answer: dict[str, Any]) -> None:
    """Compare a batch with the service's answer, bit by bit."""
    columns = list(answer["forecasts"][0])[6:]
    given = ["unique_id", "cutoff", "ds", "mean"]
    assert list(frame) == [*given, *columns, "is_adapted", "forecast_by", "model", "version"]
    rows = list(frame.groupby("unique_id", sort=False))
    assert [name for name, _ in rows] == [one["unique_id"] for one in answer["forecasts"]]
    for (_, own), one in zip(rows, answer["forecasts"], strict=True):
        assert own["ds"].tolist() == [pd.Timestamp(time) for time in one["ds"]]
        assert set(own["cutoff"]) == {pd.Timestamp(one["cutoff"])}
        for column in ("mean", *columns):
            np.testing.assert_array_equal(own[column], np.array(one[column], dtype=float))
        assert set(own["is_adapted"]) == {one["is_adapted"]}
    assert set(frame["version"]) == {answer["model"]["version"]}
    assert set(frame["forecast_by"]) == {answer["forecast_by"]}


@pytest.mark.parametrize("tz", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    "wanted", [{"level": [80, 95]}, {"quantiles": [0.1, 0.75]}, {"level": [50], "horizon": 6}, {"version": 2}]
)
def test_a_file_is_forecast_as_the_service_answers_it(
    client: TestClient, models: TrainedModels, tmp_path: Path, wanted: dict[str, Any], tz: str | None
) -> None:
    history(tz=tz).to_parquet(tmp_path / "h.parquet")
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    frame, batch = forecast(
        config(models.cache, tmp_path, **{"level": None, "data": data, "series_at_once": 2} | wanted)
    )
    answer = client.post("/v1/forecasts", json={"model": "sine", "series": sent(history(tz=tz))} | wanted).json()
    assert_same(frame, answer)
    assert str(frame["ds"].dt.tz) == str(frame["cutoff"].dt.tz) == str(tz)
    head = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"forecaster"])
    assert {name: head[name] for name in ("model", "forecast_by", "skill", "warnings")} == {
        name: answer[name] for name in ("model", "forecast_by", "skill", "warnings")
    }
    assert (batch.done, batch.rows, batch.failed) == (3, len(frame), {})


@pytest.mark.parametrize("without_skill", ["model", "baseline"])
def test_the_store_is_forecast_as_the_service_answers_it(
    furnished: dict[str, Any], tmp_path: Path, without_skill: str
) -> None:
    settings = Settings(**furnished, without_skill=without_skill)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        # as many as are stored, sorted as the store sorts them
        asked = {"model": "walk", "unique_ids": [HOSTILE, BARS], "level": [80]}
        answer = client.post("/v1/forecasts", json=asked).json()
    data = {"source": "store", "folder": furnished["bars_dir"]}
    changes = {"name": "walk", "data": data, "level": [80], "without_skill": without_skill}
    frame, _ = forecast(config(furnished["cache_dir"], tmp_path, **changes))
    assert answer["forecast_by"] == ("naive" if without_skill == "baseline" else "model")
    assert_same(frame, answer)


def test_intervals_follow_the_ledger_as_the_services_do(models: TrainedModels, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/ledger.db"
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=database)
    request = {"model": "sine", "series": sent(history()), "level": [50, 80, 95]}
    app = create_app(settings)
    with TestClient(app) as client:
        wait_until_ready(client)
        (one,) = client.post("/v1/forecasts", json=request | {"series": request["series"][:1]}).json()["forecasts"]
        actuals = [{"unique_id": "b", "ds": time, "y": 100.0} for time in one["ds"]]
        assert client.post("/v1/actuals", json={"actuals": actuals}).json()["accepted"] == len(actuals)
        # what the service does by itself each minute
        with open_database(database) as engine:
            app.state.forecast_service.recorder.allowed = {("", "sine", 1): read_miscoverage_rates(engine, "sine", 1)}
        answer = client.post("/v1/forecasts", json=request).json()
    assert [one["is_adapted"] for one in answer["forecasts"]] == [True, False, False]
    history().to_csv(tmp_path / "h.csv", index=False)
    changes = {"data": {"source": "files", "path": tmp_path / "h.csv"}, "level": [50, 80, 95]}
    adapted, _ = forecast(config(models.cache, tmp_path, **changes), database)
    assert_same(adapted, answer)
    plain, _ = forecast(config(models.cache, tmp_path, **changes, adapt_intervals=False), database)
    assert not plain["is_adapted"].any()
    assert (adapted["hi-80"] > plain["hi-80"])[:4].all()


def test_what_the_service_is_set_to_holds_for_batches(
    furnished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, database = Path(shutil.copytree(furnished["bars_dir"], tmp_path / "bars")), f"sqlite:///{tmp_path}/ledger.db"
    tail = json.loads((bars / f"{BARS}.tail.json").read_text())
    (bars / "OLD.tail.json").write_text(json.dumps(tail | {"symbol": "OLD", "due_at": "2025-01-02T21:30:00+00:00"}))
    chosen = {"BARS_DIR": bars, "STALE_AFTER_HOURS": "1e6", "WITHOUT_SKILL": "baseline", "ADAPT_INTERVALS": "false"}
    for name, value in chosen.items():
        monkeypatch.setenv(f"FORECASTER_{name}", str(value))
    settings = Settings(cache_dir=furnished["cache_dir"], tracking_uri="", database_url=database)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        request = {"model": "sine", "series": sent(history()), "level": [80]}
        filed = client.post("/v1/forecasts", json=request).json()
        actuals = [{"unique_id": "b", "ds": time, "y": 100.0} for time in filed["forecasts"][0]["ds"]]
        assert client.post("/v1/actuals", json={"actuals": actuals}).json()["accepted"] == len(actuals)
        asked = {"model": "walk", "unique_ids": [HOSTILE, "OLD", BARS], "level": [80]}
        stored = client.post("/v1/forecasts", json=asked).json()
    with open_database(database) as engine:
        assert read_miscoverage_rates(engine, "sine", 1)
    history().to_parquet(tmp_path / "h.parquet")
    for name, data, answer in (
        ("sine", {"source": "files", "path": tmp_path / "h.parquet"}, filed),
        ("walk", {"source": "store"}, stored),
    ):
        changes: dict[str, Any] = {"name": name, "data": data, "level": [80]}
        assert_same(forecast(config(settings.cache_dir, tmp_path, **changes), database)[0], answer)
    monkeypatch.setenv("FORECASTER_WITHOUT_SKILL", "anybody")
    with pytest.raises(ConfigError, match=r"without_skill: .*'model' or 'baseline'"):
        config(settings.cache_dir, tmp_path, **changes)


def spoilt(folder: Path) -> Path:
    """Write series of which two are good, among others that break each its rule; return the file."""
    frame = history(("a", "hole", "b", "word", "short", "back"))
    name, row = frame["unique_id"], frame.groupby("unique_id").cumcount()
    frame["y"] = frame["y"].astype(str).mask((name == "word") & (row == 3), "many")
    frame["ds"] = frame["ds"].where(~((name == "back") & (row == 9)), pd.Timestamp("2026-03-01"))
    frame = frame[~((name == "hole") & (row == 5)) & ~((name == "short") & (row < 20))]
    frame.to_csv(folder / "spoilt.csv", index=False)
    return folder / "spoilt.csv"


SAID = {"hole": "is not one step of h", "word": "y is not a finite number", "short": "needs 24", "back": "is earlier"}


def test_a_spoilt_series_is_named_and_leaves_the_others(models: TrainedModels, tmp_path: Path) -> None:
    job: dict[str, Any] = {
        "name": "sine",
        "data": {"source": "files", "path": str(spoilt(tmp_path))},
        "tracking": {"uri": models.config.tracking.uri},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"forecast": job}))
    changes = ("--set", "out=f.parquet", "level=[80]")
    done = run_module("pipelines.forecast", "job.yaml", *changes, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["failed"].keys() == SAID.keys()
    for name, said in SAID.items():
        assert said in answer["failed"][name]
        assert any(line.split()[:1] == [name] and said in line for line in done.stdout.splitlines()[:-1])
    assert "spoilt.csv" in answer["failed"]["word"]
    frame = pd.read_parquet(tmp_path / "f.parquet")
    history(("a", "hole", "b", "word", "short", "back")).query("unique_id in ('a', 'b')").to_parquet(
        tmp_path / "h.parquet"
    )
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    expected, _ = forecast(config(models.cache, tmp_path, data=data, level=[80]))
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    assert (answer["series"], answer["rows"], answer["out"]) == (2, 8, "f.parquet")

    before = (tmp_path / "f.parquet").read_bytes()
    refused = run_module("pipelines.forecast", "job.yaml", *changes, "strict=true", cwd=tmp_path)
    assert refused.returncode == 1
    assert "4 of 6 series failed, and strict allows none: " in refused.stderr
    assert (tmp_path / "f.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".*.draft"))


def test_a_stored_symbol_that_is_stale_spoilt_or_absent_leaves_the_others(
    furnished: dict[str, Any], tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(furnished["bars_dir"], tmp_path / "bars"))
    tail = json.loads((bars / f"{BARS}.tail.json").read_text())
    (bars / "OLD.tail.json").write_text(json.dumps(tail | {"symbol": "OLD", "due_at": "2025-01-02T21:30:00+00:00"}))
    (bars / "HALF.tail.json").write_text('{"symbol": "HALF", "ds": [')
    data: dict[str, Any] = {"source": "store", "folder": bars}
    changes: dict[str, Any] = {"name": "walk", "level": [80], "data": data}
    frame, batch = forecast(config(furnished["cache_dir"], tmp_path, **changes))
    assert batch.failed.keys() == {"OLD", "HALF"}
    assert "the next was complete at 2025-01-02T21:30:00" in batch.failed["OLD"]
    assert "cannot be read" in batch.failed["HALF"]
    assert set(frame["unique_id"]) == {BARS, HOSTILE}
    chosen = {"data": data | {"symbols": [BARS, "NOBODY", "OLD"], "stale_after_hours": 1e6}}
    frame, batch = forecast(config(furnished["cache_dir"], tmp_path, **changes | chosen))
    assert frame["unique_id"].unique().tolist() == [BARS, "OLD"]
    assert batch.failed.keys() == {"NOBODY"}
    assert "is not in the bar store" in batch.failed["NOBODY"]


def test_an_interrupted_batch_leaves_the_old_file_whole(models: TrainedModels, tmp_path: Path) -> None:
    history().to_parquet(tmp_path / "h.parquet")
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    job = config(models.cache, tmp_path, data=data, series_at_once=1)
    forecast(job)
    before = job.out.read_bytes()
    seen = []

    def stop(done: int, count: int) -> None:
        seen.append((done, count))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_batch(job, "sqlite:///nowhere.db", stop)
    # told series by series, so never more than one was held
    assert seen == [(1, 3), (2, 3)]
    assert job.out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.parquet", "out.parquet"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ("horizon=41", 1, "horizon: 41 is outside 1 to 40"),
        ("level=[99.9]", 1, "lies outside the calibrated range"),
        ("version=9", 1, "model 'sine' has no version 9"),
        ("futr={path: x.csv}", 1, "futr: the model takes nothing that is known ahead"),
        ("out=f.csv", 2, "out: must end with .parquet"),
        ("quantiles=[.5]", 2, "level and quantiles: give one of them"),
        ("data={source: store, symbols: [A, A]}", 2, "['A'] are named twice"),
        ("data={source: store, folder: empty}", 1, "nothing is stored in empty"),
    ],
)
def test_what_no_series_would_be_answered_is_refused_before_any(
    models: TrainedModels, tmp_path: Path, change: str, status: int, said: str
) -> None:
    history().to_csv(tmp_path / "h.csv", index=False)
    job = {"name": "sine", "data": {"source": "files", "path": "h.csv"}, "level": [80], "out": "f.parquet"}
    job |= {"cache": str(models.cache), "tracking": {"uri": ""}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = run_module("pipelines.forecast", "job.yaml", "--set", change, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "f.parquet").exists()


@pytest.mark.parametrize("name", ["sine", "stock"])
def test_the_shipped_jobs_have_a_batch(name: str) -> None:
    shipped = load_config(ROOT / "pipelines" / "configs" / f"{name}.yaml", BatchConfig, section="forecast")
    assert shipped.name == name
    assert shipped.level == (80, 95)
