"""Batch forecasts: they equal the service's answers, enter the ledger once, and report the series that fail."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from forecaster.database.engine import transaction
from forecaster.database.schema import open_database
from forecaster.database.tables import FORECASTS
from forecaster.domain.config import build_config, load_config
from forecaster.domain.errors import ConfigError
from forecaster.inference import batch_ledger
from forecaster.inference.batch import Batch, BatchConfig, forecast_batch
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.ledger.entries import Entry
from forecaster.ledger.writer import write
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, TrainedModels, run_module
from tests.service.conftest import wait_until_ready
from tests.service.site import BARS, HOSTILE

HOURS = 30
# the third series ends at a clock change in Europe
FIRST = pd.Timestamp("2026-03-26T01:00")


def history(names: tuple[str, ...] = ("b", "a", "c"), tz: str | None = None) -> pd.DataFrame:
    """Return interleaved series that end on different days."""
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


def new_database(config: BatchConfig) -> str:
    """Return the URL of a database next to the batch's file."""
    return f"sqlite:///{config.out.parent}/database/ledger.db"


def forecast(config: BatchConfig, database: str | None = None) -> tuple[pd.DataFrame, Batch]:
    batch = forecast_batch(config, database or new_database(config), lambda done, count: None)
    return pd.read_parquet(config.out), batch


def as_series(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as the series of a request."""
    return [
        {"unique_id": name, "ds": [time.isoformat() for time in rows["ds"]], "y": rows["y"].tolist()}
        for name, rows in frame.groupby("unique_id", sort=False)
    ]


def assert_same(frame: pd.DataFrame, answer: dict[str, Any]) -> None:
    """Compare a batch with the service's answer, bit by bit."""
    columns = list(answer["forecasts"][0])[6:]
    first_columns = ["unique_id", "cutoff", "ds", "mean"]
    assert list(frame) == [*first_columns, *columns, "is_adapted", "forecast_by", "model", "version"]
    groups = list(frame.groupby("unique_id", sort=False))
    assert [name for name, _ in groups] == [served["unique_id"] for served in answer["forecasts"]]
    for (_, rows), served in zip(groups, answer["forecasts"], strict=True):
        assert rows["ds"].tolist() == [pd.Timestamp(time) for time in served["ds"]]
        assert set(rows["cutoff"]) == {pd.Timestamp(served["cutoff"])}
        for column in ("mean", *columns):
            np.testing.assert_array_equal(rows[column], np.array(served[column], dtype=float))
        assert set(rows["is_adapted"]) == {served["is_adapted"]}
    assert set(frame["version"]) == {answer["model"]["version"]}
    assert set(frame["forecast_by"]) == {answer["forecast_by"]}


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


def stored_forecasts(database: str) -> list[Any]:
    """Return the forecasts in a ledger."""
    with open_database(database) as engine, transaction(engine) as connection:
        return list(connection.execute(select(FORECASTS).order_by(FORECASTS.c.forecast_id)))


@pytest.mark.parametrize("tz", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("options", [{"level": [80, 95]}, {"quantiles": [0.1]}, {"level": [50], "horizon": 6}])
def test_batch_enters_the_ledger_like_the_services_answer(
    models: TrainedModels, tmp_path: Path, options: dict[str, Any], tz: str | None
) -> None:
    database = f"sqlite:///{tmp_path}/ledger.db"
    history(tz=tz).to_parquet(tmp_path / "h.parquet")
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    job = config(models.cache, tmp_path, **{"level": None, "data": data, "series_at_once": 2} | options)
    _, batch = forecast(job, database)
    assert batch.entered == 3
    with TestClient(create_app(Settings(cache_dir=models.cache, tracking_uri="", database_url=database))) as client:
        wait_until_ready(client)
        request = {"model": "sine", "series": as_series(history(tz=tz))} | options
        answer = client.post("/v1/forecasts", json=request).json()
        for forecast_out in answer["forecasts"]:
            query = {"model": "sine", "unique_id": forecast_out["unique_id"]}
            of_service, of_batch = client.get("/v1/forecasts", params=query).json()["forecasts"]
            ids = [found["forecast"].pop("forecast_id") for found in (of_service, of_batch)]
            assert ids[0] == forecast_out["forecast_id"] != ids[1]
            times = [[pd.Timestamp(time) for time in found["forecast"].pop("ds")] for found in (of_service, of_batch)]
            # the same times: requests have UTC offsets and no zones, so after a clock change the service's text differs
            assert times[0] == times[1]
            for found in (of_service, of_batch):
                found.pop("answered_at")
            assert of_service == of_batch
            # the same actual scores both
            actuals = [{"unique_id": forecast_out["unique_id"], "ds": forecast_out["ds"][0], "y": 0.5}]
            assert client.post("/v1/actuals", json={"actuals": actuals}).json()["changed"] == 1
        by_series = client.get("/v1/skill", params={"model": "sine", "by": "unique_id"}).json()["realised"]
    assert [(found["group"], found["n_scores"]) for found in by_series] == [("a", 2), ("b", 2), ("c", 2)]
    rows = sorted(stored_forecasts(database), key=lambda row: (row.unique_id, row.answered_at))
    for row, other in zip(rows[::2], rows[1::2], strict=True):
        assert (row.unique_id, row.steps, row.last_value) == (other.unique_id, other.steps, other.last_value)
        assert (row.first_at, row.last_at, row.tolerance) == (other.first_at, other.last_at, other.tolerance)


@pytest.mark.parametrize("is_killed_at", [0, 1, 2])
def test_batch_that_is_killed_and_run_again_enters_the_ledger_once(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed_at: int
) -> None:
    history().to_parquet(tmp_path / "h.parquet")
    job = config(models.cache, tmp_path, data={"source": "files", "path": tmp_path / "h.parquet"})
    calls: list[list[Entry]] = []

    def write_some(engine: Engine, entries: list[Entry]) -> list[bool]:
        if len(calls) == is_killed_at:
            raise KeyboardInterrupt
        calls.append(entries)
        return write(engine, entries)

    with monkeypatch.context() as patch:
        patch.setattr(batch_ledger, "BATCH_SIZE", 1)
        patch.setattr(batch_ledger, "write", write_some)
        with pytest.raises(KeyboardInterrupt):
            forecast(job)
    assert not job.out.exists()
    assert len(stored_forecasts(new_database(job))) == is_killed_at
    frame, batch = forecast(job)
    assert batch.entered == 3 - is_killed_at
    before = stored_forecasts(new_database(job))
    again, batch = forecast(job)
    assert batch.entered == 0
    assert stored_forecasts(new_database(job)) == before
    pd.testing.assert_frame_equal(frame, again, check_exact=True)
    assert sorted(row.unique_id for row in before) == ["a", "b", "c"]
    # other inputs, another horizon or another version make a new forecast
    changed = history().assign(y=lambda rows: rows["y"].where(rows["unique_id"] != "b", rows["y"] + 1))
    changed.to_parquet(tmp_path / "h.parquet")
    assert forecast(job)[1].entered == 1
    assert forecast(job.model_copy(update={"horizon": 2}))[1].entered == 3
    assert forecast(job.model_copy(update={"version": 2}))[1].entered == 3


def test_no_file_is_written_without_the_ledger(models: TrainedModels, tmp_path: Path) -> None:
    history().to_csv(tmp_path / "h.csv", index=False)
    (tmp_path / "damaged.db").write_text("not a database" * 100)
    job = {"name": "sine", "data": {"source": "files", "path": "h.csv"}, "level": [80], "out": "f.parquet"}
    job |= {"cache": str(models.cache), "tracking": {"uri": ""}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for database, status, message in (
        ("", 2, "database URL: '' is not a URL"),
        ("sqlite:///damaged.db", 1, "the database does not answer"),
        ("postgresql://nobody:secret@127.0.0.1:1/none", 1, "the database does not answer"),
    ):
        done = run_module("pipelines.forecast", "job.yaml", "--database", database, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert error.startswith("error: ledger: ")
        assert message in error
        assert "set ledger: false to forecast without it" in error
        assert "secret" not in done.stderr
        assert not (tmp_path / "f.parquet").exists()
        changes = ("--set", "ledger=false", "adapt_intervals=false")
        done = run_module("pipelines.forecast", "job.yaml", "--database", database, *changes, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["entered"] is None
        (tmp_path / "f.parquet").unlink()


def test_batch_has_an_owner_and_refuses_names_that_are_too_long(models: TrainedModels, tmp_path: Path) -> None:
    names = ("a", "n" * 201)
    history(names).to_parquet(tmp_path / "h.parquet")
    data = {"source": "files", "path": tmp_path / "h.parquet"}
    job = config(models.cache, tmp_path, data=data, owner="shop")
    _, batch = forecast(job)
    assert [(row.owner, row.unique_id) for row in stored_forecasts(new_database(job))] == [("shop", "a")]
    assert batch.failed.keys() == {names[1]}
    assert "the name has 201 characters, but the ledger stores names of 1 to 200" in batch.failed[names[1]]
    frame, batch = forecast(job.model_copy(update={"ledger": False}))
    assert set(frame["unique_id"]) == set(names)
    assert len(stored_forecasts(new_database(job))) == 1


@pytest.mark.parametrize("name", ["sine", "stock"])
def test_shipped_jobs_have_a_batch(name: str) -> None:
    shipped = load_config(ROOT / "pipelines" / "configs" / f"{name}.yaml", BatchConfig, section="forecast")
    assert shipped.name == name
    assert shipped.level == (80, 95)
