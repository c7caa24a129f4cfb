"""A backup made while others write is restored elsewhere as it was, and replaces existing data only with --force."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from forecaster.backup.restore import restore
from forecaster.backup.save import Locations, back_up
from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import create_key, read_keys
from forecaster.database.schema import open_database
from forecaster.database.tables import FORECASTS
from forecaster.domain.errors import BackupError, ConfigError
from forecaster.inference.predictor import load_predictor
from forecaster.ledger.skill import realised_skill
from forecaster.ledger.writer import Writer
from forecaster.registry.store import Store
from service.app import create_app
from service.settings import Settings
from tests.backup.installation import DUE, elsewhere, entry, fill_ledger, sizes, write_bars
from tests.conftest import TrainedModels, run_module
from tests.service.conftest import forecast_request, wait_until_ready


def forecast(locations: Locations, cache: Path, key: str | None = None) -> dict[str, Any]:
    """Return the response of a service at these locations, whose sync fills an empty cache."""
    settings = Settings(
        tracking_uri=locations.tracking_uri, cache_dir=cache, bars_dir=locations.bars, database_url=locations.database
    )
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = client.post("/v1/forecasts", json=forecast_request(), headers=headers)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content


def numbers(answer: dict[str, Any]) -> Any:
    (only,) = answer["forecasts"]
    return answer["model"], {name: value for name, value in only.items() if name not in ("forecast_id", "is_adapted")}


@pytest.mark.parametrize("name", ["monday.tar", "monday.tar.zst"])
def test_restored_installation_serves_the_same_forecasts_elsewhere(site: Locations, tmp_path: Path, name: str) -> None:
    with open_database(site.database) as engine:
        key = create_key(engine, "me", ["forecast"])
    before, ledger = forecast(site, tmp_path / "cache", key), sizes(site.database)
    stored = {symbol: BarStore(site.bars).read(symbol) for symbol in ("ABC", "brk.b")}
    aliases = Store(site.tracking_uri).find("sine").aliases
    contents = back_up(site, tmp_path / "backups" / name)
    assert contents.registry is not None and contents.registry.elsewhere == ()
    assert oct((tmp_path / "backups" / name).stat().st_mode & 0o777) == "0o600"
    shutil.rmtree(site.bars.parent)
    shutil.rmtree(tmp_path / "cache")

    new = elsewhere(tmp_path)
    restored: list[str] = []
    restore(new, tmp_path / "backups" / name, on_file=restored.append)
    assert restored == [str(new.root), new.tracking_uri, str(new.bars), new.database]
    assert oct(Path(new.database.removeprefix("sqlite:///")).stat().st_mode & 0o777) == "0o600"
    assert sizes(new.database) == ledger
    # the key is still valid, and the service's sync finds the artifacts at their new location
    assert numbers(forecast(new, tmp_path / "new cache", key)) == numbers(before)
    assert not Path(site.bars.parent).exists()
    assert Store(new.tracking_uri).find("sine").aliases == aliases
    for symbol, bars in stored.items():
        again = BarStore(new.bars).read(symbol)
        assert bars is not None and again is not None
        pd.testing.assert_frame_equal(again.frame, bars.frame, check_exact=True)
        assert read_tail(new.bars, symbol).due_at == DUE
    with open_database(new.database) as engine:
        (realised,) = realised_skill(engine, "sine")
        assert (realised.n_scores, realised.mae) == (2, 3.0)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [name]


def test_old_experiment_accepts_runs_after_a_restore(site: Locations, models: TrainedModels, tmp_path: Path) -> None:
    back_up(site, tmp_path / "b.tar", ("registry",))
    new = elsewhere(tmp_path)
    restore(new, tmp_path / "b.tar")
    shutil.rmtree(site.bars.parent)
    import mlflow

    client = mlflow.MlflowClient(new.tracking_uri)
    experiment = client.get_experiment_by_name("forecaster")
    run = client.create_run(experiment.experiment_id)
    client.log_dict(run.info.run_id, {}, "new.json")
    assert (new.root / run.info.run_id / "artifacts" / "new.json").is_file()
    assert client.list_artifacts(models.versions[0].run_id)
    predictor = load_predictor("sine", version=2, tracking_uri=new.tracking_uri, cache=tmp_path / "c")
    np.testing.assert_array_equal(
        predictor.predict_arrays(predictor.bundle.golden.inputs.values), predictor.bundle.golden.forecasts.mean
    )


@pytest.fixture
def busy(site: Locations) -> Iterator[Locations]:
    """The installation while threads write to its ledger and its bars without pause."""
    stop, failures = threading.Event(), []

    def work(what: Callable[[int], None]) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                what(number)
        except BaseException as error:
            failures.append(error)

    engine = open_engine(site.database)
    writer = Writer(engine)
    writer.start()
    threads = [
        threading.Thread(target=work, args=(lambda number: writer.submit([entry(number)]).result() and None,)),
        threading.Thread(target=work, args=(lambda number: write_bars(site.bars, "ABC", number),)),
    ]
    for thread in threads:
        thread.start()
    yield site
    stop.set()
    for thread in threads:
        thread.join()
    writer.stop()
    engine.dispose()
    assert failures == []


def test_backup_made_during_writes_is_consistent(busy: Locations, tmp_path: Path) -> None:
    written = [sizes(busy.database)["requests"]]
    with closing(sqlite3.connect(busy.database.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        # while there is a reader, new data stay in the log file
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchone()
        for number in range(3):
            back_up(busy, tmp_path / f"{number}.tar")
            written.append(sizes(busy.database)["requests"])
    for number in range(3):
        new = elsewhere(tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        restore(new, tmp_path / f"{number}.tar")
        saved = sizes(new.database)
        # a request and its forecasts are one transaction
        assert saved["forecasts"] == 2 * saved["requests"]
        assert written[number] <= saved["requests"] <= written[number + 1]
        # a symbol's bars and its tail are one update
        bars = BarStore(new.bars).read("ABC")
        assert bars is not None
        closes = bars.adjusted()["close"].to_numpy()
        np.testing.assert_array_equal(read_tail(new.bars, "ABC").bars["close"], closes[-512:])
    assert written[0] < written[1] < written[2] < written[3]


def test_force_replaces_all_existing_data(site: Locations, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    ledger = sizes(site.database)
    with pytest.raises(BackupError, match=r"artifacts.*mlflow\.db.*bars.*service\.db.*: not empty"):
        restore(site, archive)
    # changes after the backup
    write_bars(site.bars, "NEW", 1)
    fill_ledger(site.database)
    Store(site.tracking_uri).promote("sine", 2)
    restore(site, archive, force=True)
    assert BarStore(site.bars).symbols() == ["ABC", "brk.b"]
    assert sizes(site.database) == ledger
    with closing(sqlite3.connect(site.bars.parent / "mlflow.db")) as connection:
        champion = "SELECT version FROM registered_model_aliases WHERE alias = 'champion'"
        assert connection.execute(champion).fetchall() == [(1,)]
    left = {path.name for path in site.bars.parent.iterdir()}
    assert {name for name in left if not name.endswith(".lock")} == {"artifacts", "bars", "mlflow.db", "service.db"}


def test_restore_refuses_a_database_in_use(site: Locations, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    write_bars(site.bars, "NEW", 1)
    engine = open_engine(site.database)
    with transaction(engine) as connection:
        connection.execute(select(FORECASTS)).first()
    # an idle connection
    with pytest.raises(BackupError, match=r"service\.db: is in use .*locked.*; stop the service"):
        restore(site, archive, force=True)
    assert len(read_keys(engine)) == 1
    # nothing else is replaced either
    assert BarStore(site.bars).symbols() == ["ABC", "NEW", "brk.b"]
    engine.dispose()
    # a damaged database is replaced together with its log file
    file = Path(site.database.removeprefix("sqlite:///"))
    file.write_bytes(b"damaged" * 1000)
    file.with_name("service.db-wal").write_bytes(b"damaged")
    restore(site, archive, force=True)
    assert sizes(site.database)["requests"] == 20


def test_errors_name_what_cannot_be_saved_or_restored(site: Locations, tmp_path: Path) -> None:
    file = Path(site.database.removeprefix("sqlite:///"))
    absent = f"sqlite:///{tmp_path}/no.db"
    for locations, parts, message in (
        (Locations(absent, None, site.bars, site.database), ("registry",), "no.db: there is no such database"),
        (Locations(site.tracking_uri, None, tmp_path / "none", site.database), ("bars",), "has no bars"),
        (Locations(site.database, None, site.bars, site.database), ("registry",), "is not an MLflow store"),
    ):
        with pytest.raises(BackupError, match=message):
            back_up(locations, tmp_path / "b.tar", parts)
    with pytest.raises(ConfigError, match="http://mlflow:5000: neither sqlite"):
        back_up(Locations("http://mlflow:5000", None, site.bars, site.database), tmp_path / "b.tar")
    with pytest.raises(ConfigError, match=r"b\.zip: name it something\.tar"):
        back_up(site, tmp_path / "b.zip")
    damaged = bytearray(file.read_bytes())
    damaged[4096:8192] = b"x" * 4096
    file.write_bytes(damaged)
    with pytest.raises(BackupError, match=r"service\.db: (is damaged|cannot be copied)"):
        back_up(site, tmp_path / "b.tar", ("database",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["the old place"]
    back_up(site, tmp_path / "b.tar", ("bars",))
    with pytest.raises(BackupError, match="already exists; choose another name"):
        back_up(site, tmp_path / "b.tar", ("bars",))
    with pytest.raises(BackupError, match=r"does not have \['database'\]; it has \['bars'\]"):
        restore(elsewhere(tmp_path), tmp_path / "b.tar", ("database",))


def test_commands_print_what_they_saved_and_restored(site: Locations, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    environment = {
        "FORECASTER_TRACKING_URI": site.tracking_uri,
        "FORECASTER_BARS_DIR": str(site.bars),
        "FORECASTER_DATABASE_URL": site.database,
    }
    saved = run_module("pipelines.backup", "b/monday.tar.zst", cwd=tmp_path / "work", **environment)
    assert saved.returncode == 0, saved.stderr
    answer = json.loads(saved.stdout.splitlines()[-1])
    assert answer["parts"] == ["registry", "bars", "database"]
    assert answer["elsewhere"] == []
    # to the default locations
    restored = run_module(
        "pipelines.restore", "b/monday.tar.zst", cwd=tmp_path / "work",
        FORECASTER_DATABASE_URL="sqlite:///mlruns/service.db",
    )  # fmt: skip
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout.splitlines()[-1])["restored"] == [
        str(tmp_path / "work" / "mlruns" / "artifacts"),
        "sqlite:///mlruns/mlflow.db",
        "mlruns/bars",
        "sqlite:///mlruns/service.db",
    ]
    assert "restored mlruns/bars" in restored.stderr
    again = run_module(
        "pipelines.restore", "b/monday.tar.zst", cwd=tmp_path / "work",
        FORECASTER_DATABASE_URL="sqlite:///mlruns/service.db",
    )  # fmt: skip
    assert again.returncode == 1
    assert "not empty; give empty locations, or --force" in again.stderr
    assert "Traceback" not in again.stderr
