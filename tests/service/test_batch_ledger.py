"""Batch forecasts in the ledger: they enter it like the service's answers, once, and before the file appears."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from sqlalchemy import Engine
from starlette.testclient import TestClient

from forecaster.inference import batch_ledger
from forecaster.ledger.entries import Entry
from forecaster.ledger.writer import write
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, run_module
from tests.service.batches import as_series, config, forecast, history, new_database, stored_forecasts
from tests.service.conftest import wait_until_ready


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
