"""On Postgres a backup comes back too, all or nothing, and its password is in no argument."""

import json
import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from forecaster.database.engine import transaction
from forecaster.database.keys import read_keys
from forecaster.database.schema import opened
from forecaster.domain.errors import BackupError
from forecaster.lifecycle.backup import Places, back_up
from forecaster.lifecycle.restore import restore
from tests.lifecycle.kept import fill_ledger, sizes
from tests.postgres import fresh_database


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
