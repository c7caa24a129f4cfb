"""A backup that is made while others write comes back elsewhere as it was; a spoilt one is refused, nothing touched."""

import io
import json
import os
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import func, inspect, select, text
from starlette.testclient import TestClient

from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import create_key, read_keys
from forecaster.database.schema import opened
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS
from forecaster.domain.errors import BackupError, ConfigError
from forecaster.ledger.entries import Entry, Served, new_request_id
from forecaster.ledger.scoring import Actual, take_actuals
from forecaster.ledger.skill import realised_skill
from forecaster.ledger.writer import Writer
from forecaster.lifecycle.backup import Places, back_up
from forecaster.lifecycle.restore import restore
from forecaster.registry.load import load_predictor
from forecaster.registry.store import Store
from service.app import create_app
from service.settings import Settings
from tests.conftest import House, run_module
from tests.data.prices import Company
from tests.postgres import fresh_database
from tests.service.conftest import ask, wait_until_ready

DUE = datetime(2999, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000


def write_bars(folder: Path, symbol: str, seed: int) -> None:
    store = BarStore(folder)
    with store.lock(symbol):
        store.write(Company(symbol=symbol, seed=seed).bars(), DUE)


def entry(number: int) -> Entry:
    """Return an answer with two forecasts."""
    steps = np.array([[(number + step) * HOUR, 1.0, 0.0, 2.0, -1.0, 3.0] for step in range(2)])
    served = tuple(Served(name, 1.0, steps, json.dumps({"unique_id": name})) for name in ("a", "b"))
    return Entry(new_request_id(number), number, "", "sine", 1, "model", "{}", served)


@pytest.fixture
def site(house: House, tmp_path: Path) -> Places:
    """An installation of its own: the house's registry, two stored symbols, a ledger with scores and a key."""
    folder = tmp_path / "the old place"
    uri = f"sqlite:///{folder}/mlflow.db"
    shutil.copytree(house.folder / "artifacts", folder / "artifacts")
    shutil.copy(house.folder / "mlflow.db", folder / "mlflow.db")
    # as if it had been made here
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        for table, column in PLACED:
            old, new = (house.folder / "artifacts").as_uri(), (folder / "artifacts").as_uri()
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))
    for seed, symbol in enumerate(("ABC", "brk.b")):
        write_bars(folder / "bars", symbol, seed)
    database = f"sqlite:///{folder}/service.db"
    fill_ledger(database)
    return Places(uri, None, folder / "bars", database)


PLACED = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def fill_ledger(url: str) -> None:
    with opened(url) as engine:
        create_key(engine, "shop", ["forecast"])
        writer = Writer(engine)
        writer.start()
        assert all(writer.submit([entry(number)]).result() == [True] for number in range(20))
        writer.stop()
        take_actuals(engine, [Actual("a", 5 * HOUR, 4.0)])


def elsewhere(tmp_path: Path) -> Places:
    new = tmp_path / "somewhere else" / "entirely"
    return Places(f"sqlite:///{new}/store.db", None, new / "bars", f"sqlite:///{new}/kept/service.db")


def sizes(url: str) -> dict[str, int]:
    with opened(url) as engine, transaction(engine) as connection:
        return {
            str(table.name): int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in (REQUESTS, FORECASTS, ACTUALS)
        }


def forecast(places: Places, cache: Path, key: str | None = None) -> dict[str, Any]:
    """Return what a service of these places answers, whose sync child fills an empty cache."""
    settings = Settings(
        tracking_uri=places.tracking_uri, cache_dir=cache, bars_dir=places.bars, database_url=places.database
    )
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = client.post("/v1/forecasts", json=ask(), headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def numbers(answer: dict[str, Any]) -> Any:
    (one,) = answer["forecasts"]
    return answer["model"], {name: value for name, value in one.items() if name not in ("forecast_id", "is_adapted")}


@pytest.mark.parametrize("name", ["monday.tar", "monday.tar.zst"])
def test_a_wiped_installation_comes_back_elsewhere_and_serves_the_same(site: Places, tmp_path: Path, name: str) -> None:
    with opened(site.database) as engine:
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
    told: list[str] = []
    restore(new, tmp_path / "backups" / name, on_file=told.append)
    assert told == [str(new.root), new.tracking_uri, str(new.bars), new.database]
    assert sizes(new.database) == ledger
    # the key is as good as it was, and the service's sync child finds the artifacts where they are now
    assert numbers(forecast(new, tmp_path / "new cache", key)) == numbers(before)
    assert not Path(site.bars.parent).exists()
    assert Store(new.tracking_uri).find("sine").aliases == aliases
    for symbol, bars in stored.items():
        again = BarStore(new.bars).read(symbol)
        assert bars is not None and again is not None
        pd.testing.assert_frame_equal(again.frame, bars.frame, check_exact=True)
        assert read_tail(new.bars, symbol).due_at == DUE
    with opened(new.database) as engine:
        (realised,) = realised_skill(engine, "sine")
        assert (realised.n_scores, realised.mae) == (2, 3.0)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [name]


def test_a_training_goes_on_after_a_restore(site: Places, house: House, tmp_path: Path) -> None:
    back_up(site, tmp_path / "b.tar", ("registry",))
    new = elsewhere(tmp_path)
    restore(new, tmp_path / "b.tar")
    shutil.rmtree(site.bars.parent)
    # a run of the old experiment writes to where its artifacts are now
    import mlflow

    client = mlflow.MlflowClient(new.tracking_uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "forecaster"]
    run = client.create_run(experiment.experiment_id)
    client.log_dict(run.info.run_id, {}, "new.json")
    assert (new.root / run.info.run_id / "artifacts" / "new.json").is_file()
    assert client.list_artifacts(house.versions[0].run_id)
    predictor = load_predictor("sine", version=2, tracking_uri=new.tracking_uri, cache=tmp_path / "c")
    np.testing.assert_array_equal(
        predictor.predict_arrays(predictor.bundle.golden.inputs.values), predictor.bundle.golden.mean
    )


@pytest.fixture
def busy(site: Places) -> Iterator[Places]:
    """The installation while its ledger and its bars are written without a pause."""
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


def test_what_is_saved_while_others_write_is_of_one_piece(busy: Places, tmp_path: Path) -> None:
    written = [sizes(busy.database)["requests"]]
    with closing(sqlite3.connect(busy.database.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        # as long as somebody reads, what is written stays in the log beside the file
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
        # an answer and its forecasts are one transaction
        assert saved["forecasts"] == 2 * saved["requests"]
        assert written[number] <= saved["requests"] <= written[number + 1]
        # and a symbol's bars and its tail one update
        bars = BarStore(new.bars).read("ABC")
        assert bars is not None
        closes = bars.adjusted()["close"].to_numpy()
        np.testing.assert_array_equal(read_tail(new.bars, "ABC").bars["close"], closes[-512:])
    assert written[0] < written[1] < written[2] < written[3]


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"many_to_one")
    content[at] ^= 1
    path.write_bytes(content)


def _add_link(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("bars/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def _add_above(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        above = tarfile.TarInfo("../above")
        above.size = 1
        tar.addfile(above, io.BytesIO(b"x"))


def _add_file(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        more = tarfile.TarInfo("bars/MORE.parquet")
        more.size = 1
        tar.addfile(more, io.BytesIO(b"x"))


def _drop_end(path: Path) -> None:
    with tarfile.open(path) as old, tarfile.open(path.with_name("short"), "w") as new:
        for member in old.getmembers()[:-1]:
            new.addfile(member, old.extractfile(member))
    path.with_name("short").replace(path)


def _drop_file(path: Path) -> None:
    with tarfile.open(path) as old, tarfile.open(path.with_name("short"), "w") as new:
        for member in old.getmembers():
            if not member.name.endswith("model.onnx"):
                new.addfile(member, old.extractfile(member))
    path.with_name("short").replace(path)


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (_cut, "cut short, or no backup"),
    "one bit": (_flip, "are changed since it was written"),
    "a link": (_add_link, "'bars/link' is no plain file"),
    "above": (_add_above, r"'\.\./above' is no plain file"),
    "one more": (_add_file, r"\['bars/MORE.parquet'\] \(1\) are not of it"),
    "no end": (_drop_end, "its end with manifest.json is missing"),
    "one less": (_drop_file, "are missing"),
    "nothing": (lambda path: os.truncate(path, 0), "cut short, or no backup"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_archive_is_refused_and_nothing_is_touched(
    site: Places, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    spoil(archive)
    new = elsewhere(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackupError, match=said):
        restore(new, archive)
    content = {path: path.read_bytes() for path in site.bars.parent.rglob("*") if path.is_file()}
    with pytest.raises(BackupError, match=said):
        restore(site, archive, force=True)
    assert content == {path: path.read_bytes() for path in site.bars.parent.rglob("*") if path.is_file()}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_compressed_archive_that_is_cut_short_or_spoilt_is_refused(site: Places, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    back_up(site, archive, ("bars",))
    whole = archive.read_bytes()
    for spoilt in (whole[: len(whole) // 2], whole[:-100], b"no zstd" * 100, whole[:50] + b"\0" * 20 + whole[70:]):
        archive.write_bytes(spoilt)
        with pytest.raises(BackupError):
            restore(elsewhere(tmp_path), archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.zst", "the old place"]


def test_what_is_there_is_replaced_only_by_force_and_as_a_whole(site: Places, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    ledger = sizes(site.database)
    with pytest.raises(BackupError, match=r"mlflow\.db.*artifacts.*bars.*service\.db.* hold something"):
        restore(site, archive)
    # history goes on, and goes wrong
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


def test_a_database_in_use_is_not_pulled_from_under_its_users(site: Places, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    write_bars(site.bars, "NEW", 1)
    engine = open_engine(site.database)
    with transaction(engine) as connection:
        connection.execute(select(FORECASTS)).first()
    # between two requests, with its connection kept
    with pytest.raises(BackupError, match=r"service\.db: is in use .*locked.*; stop the service"):
        restore(site, archive, force=True)
    assert len(read_keys(engine)) == 1
    # nor is anything else
    assert BarStore(site.bars).symbols() == ["ABC", "NEW", "brk.b"]
    engine.dispose()
    # and a damaged one, for which there are backups, is replaced, with the log that lay beside it
    file = Path(site.database.removeprefix("sqlite:///"))
    file.write_bytes(b"spoilt" * 1000)
    file.with_name("service.db-wal").write_bytes(b"spoilt")
    restore(site, archive, force=True)
    assert sizes(site.database)["requests"] == 20


def test_postgres_is_saved_and_comes_back_too(site: Places, postgres: str, tmp_path: Path) -> None:
    import mlflow

    old = Places(fresh_database(postgres), site.root, site.bars, fresh_database(postgres))
    fill_ledger(old.database)
    client = mlflow.MlflowClient(old.tracking_uri)
    experiment = client.create_experiment("forecaster", artifact_location=site.root.as_uri())
    run = client.create_run(experiment).info
    client.log_dict(run.run_id, {"a": 1}, "a.json")
    other = client.create_run(client.create_experiment("away", artifact_location="s3://bucket/x"))
    archive = tmp_path / "b.tar.zst"
    contents = back_up(old, archive)
    assert contents.registry is not None
    assert contents.registry.elsewhere == ("s3://bucket/x",)
    # 15 %: a path whose URI has percent signs, and a quote
    root = tmp_path / "it's 15 %" / "artifacts"
    new = Places(fresh_database(postgres), root, tmp_path / "it's 15 %" / "bars", fresh_database(postgres))
    restore(new, archive)
    shutil.rmtree(site.bars.parent)
    assert sizes(new.database) == sizes(old.database)
    with opened(new.database) as engine:
        assert [key.name for key in read_keys(engine)] == ["shop"]
        # an id that the database gives is a new one
        with transaction(engine) as connection:
            connection.execute(text("INSERT INTO jobs (kind, model, reason, asked_at) VALUES ('k', 'm', 'r', 1)"))
    again = mlflow.MlflowClient(new.tracking_uri)
    assert again.get_run(run.run_id).info.artifact_uri == f"{root.as_uri()}/{run.run_id}/artifacts"
    assert again.get_run(other.info.run_id).info.artifact_uri.startswith("s3://bucket/x/")
    place = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{again.get_run(run.run_id).info.artifact_uri}/a.json", tracking_uri=new.tracking_uri
    )
    assert json.loads(Path(place).read_text()) == {"a": 1}

    with pytest.raises(BackupError, match="hold something") as refused:
        restore(new, archive)
    assert "p%40ss" not in str(refused.value)
    with opened(new.database) as engine, transaction(engine) as connection:
        connection.execute(text("CREATE TABLE of_a_later_program (n INTEGER)"))
        connection.execute(text("DELETE FROM forecasts"))
    # MLflow's database has functions beside its tables
    restore(new, archive, ("registry", "database"), force=True)
    assert again.get_run(run.run_id).info.run_id == run.run_id
    assert sizes(new.database) == sizes(old.database)
    with opened(new.database) as engine, transaction(engine) as connection:
        assert "of_a_later_program" not in inspect(connection).get_table_names()


def test_a_postgres_restore_that_fails_leaves_what_was_there(site: Places, postgres: str, tmp_path: Path) -> None:
    places = Places(site.tracking_uri, None, site.bars, fresh_database(postgres))
    fill_ledger(places.database)
    archive = tmp_path / "b.tar"
    back_up(places, archive, ("database",))
    before = sizes(places.database)
    with opened(places.database) as engine, transaction(engine) as connection:
        # which the copy cannot make, after its tables have been dropped
        connection.execute(text("CREATE VIEW keys_of AS SELECT 1 AS one"))
        connection.execute(text("ALTER TABLE keys RENAME TO old_keys"))
        connection.execute(text("CREATE VIEW keys AS SELECT 1 AS one"))
    with pytest.raises(BackupError, match="already exists"):
        restore(places, archive, force=True)
    with opened(places.database) as engine, transaction(engine) as connection:
        assert "old_keys" in inspect(connection).get_table_names()
    assert sizes(places.database) == before


def test_the_password_is_in_no_argument_and_a_missing_program_is_named(
    site: Places, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_database(postgres)
    places = Places(site.tracking_uri, None, site.bars, database)
    with opened(database):
        pass
    spy = tmp_path / "bin" / "pg_dump"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/seen"\nexec "{shutil.which("pg_dump")}" "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    back_up(places, tmp_path / "b.tar", ("database",))
    seen = (tmp_path / "seen").read_text()
    assert "--format=custom" in seen
    assert "p@ss" not in seen and "p%40ss" not in seen
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="pg_dump is not installed: install Postgres' client programs"):
        back_up(places, tmp_path / "c.tar", ("database",))
    assert not (tmp_path / "c.tar").exists()


def test_what_cannot_be_saved_or_put_back_is_named(site: Places, tmp_path: Path) -> None:
    file = Path(site.database.removeprefix("sqlite:///"))
    absent = f"sqlite:///{tmp_path}/no.db"
    for places, parts, said in (
        (Places(absent, None, site.bars, site.database), ("registry",), "no.db: there is no such database"),
        (Places(site.tracking_uri, None, tmp_path / "none", site.database), ("bars",), "nothing is stored there"),
        (Places(site.database, None, site.bars, site.database), ("registry",), "is no MLflow store"),
    ):
        with pytest.raises(BackupError, match=said):
            back_up(places, tmp_path / "b.tar", parts)
    with pytest.raises(ConfigError, match="http://mlflow:5000: neither sqlite"):
        back_up(Places("http://mlflow:5000", None, site.bars, site.database), tmp_path / "b.tar")
    with pytest.raises(ConfigError, match=r"b\.zip: call it something\.tar"):
        back_up(site, tmp_path / "b.zip")
    spoilt = bytearray(file.read_bytes())
    spoilt[4096:8192] = b"x" * 4096
    file.write_bytes(spoilt)
    with pytest.raises(BackupError, match=r"service\.db: (is damaged|cannot be copied)"):
        back_up(site, tmp_path / "b.tar", ("database",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["the old place"]
    back_up(site, tmp_path / "b.tar", ("bars",))
    with pytest.raises(BackupError, match="is there already; choose another name"):
        back_up(site, tmp_path / "b.tar", ("bars",))
    with pytest.raises(BackupError, match=r"does not have \['database'\]; it has \['bars'\]"):
        restore(elsewhere(tmp_path), tmp_path / "b.tar", ("database",))


def test_the_commands_say_what_they_did(site: Places, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    environment = {
        "FORECASTER_TRACKING_URI": site.tracking_uri,
        "FORECASTER_BARS_DIR": str(site.bars),
        "FORECASTER_DATABASE_URL": site.database,
    }
    saved = run_module("pipelines.backup", "b/monday.tar.zst", cwd=tmp_path / "work", **environment)
    assert saved.returncode == 0, saved.stderr
    said = json.loads(saved.stdout.splitlines()[-1])
    assert said["parts"] == ["registry", "bars", "database"]
    assert said["elsewhere"] == []
    # into the defaults
    back = run_module(
        "pipelines.restore", "b/monday.tar.zst", cwd=tmp_path / "work",
        FORECASTER_DATABASE_URL="sqlite:///mlruns/service.db",
    )  # fmt: skip
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout.splitlines()[-1])["restored"] == [
        str(tmp_path / "work" / "mlruns" / "artifacts"),
        "sqlite:///mlruns/mlflow.db",
        "mlruns/bars",
        "sqlite:///mlruns/service.db",
    ]
    assert "restored mlruns/bars" in back.stderr
    again = run_module(
        "pipelines.restore", "b/monday.tar.zst", cwd=tmp_path / "work",
        FORECASTER_DATABASE_URL="sqlite:///mlruns/service.db",
    )  # fmt: skip
    assert again.returncode == 1
    assert "hold something; give places that are empty, or --force" in again.stderr
    assert "Traceback" not in again.stderr
