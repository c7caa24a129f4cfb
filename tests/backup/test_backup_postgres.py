"""On Postgres a backup comes back too, all or nothing, and its password is in no argument."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from forecaster.backup.restore import restore
from forecaster.backup.save import Places, back_up
from forecaster.data.store import BarStore
from forecaster.database.engine import transaction
from forecaster.database.keys import create_key, read_keys
from forecaster.database.schema import open_database
from forecaster.domain.errors import BackupError
from forecaster.registry.store import Store
from tests.backup.installation import files_of, fill_ledger, sizes, write_bars
from tests.postgres import fresh_database


def test_postgres_is_saved_and_comes_back_too(
    site: Places, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with open_database(new.database) as engine:
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
    with open_database(new.database) as engine, transaction(engine) as connection:
        connection.execute(text("CREATE TABLE of_a_later_program (n INTEGER)"))
        connection.execute(text("DELETE FROM forecasts"))
    # MLflow's database has functions beside its tables
    restore(new, archive, ("registry", "database"), force=True)
    assert again.get_run(run.run_id).info.run_id == run.run_id
    assert sizes(new.database) == sizes(old.database)
    with open_database(new.database) as engine, transaction(engine) as connection:
        assert "of_a_later_program" not in inspect(connection).get_table_names()
        connection.execute(text("DELETE FROM forecasts"))
    # the one thing that cannot be undone: the other database has committed when this one does not
    fails = 'sed -u \'s|^COMMIT;|SELECT 1/0;|\' | "$REAL" "$@"'
    is_other = f'[ "$PGDATABASE" = {new.database.rpartition("/")[2]} ] || exec "$REAL" "$@"'
    put_before("psql", tmp_path, f"{is_other}\n{fails}", monkeypatch)
    with pytest.raises(BackupError, match=r"division by zero; all else is put back: run it again with --force"):
        restore(new, archive, force=True)
    assert sizes(new.database)["forecasts"] == 0
    assert sorted(path.name for path in root.parent.iterdir()) == ["artifacts", "bars"]


@pytest.fixture
def gone_wrong(site: Places, postgres: str, tmp_path: Path) -> tuple[Places, Path]:
    """An installation whose history went on after its backup, and that backup."""
    places = Places(site.tracking_uri, None, site.bars, fresh_database(postgres))
    fill_ledger(places.database)
    back_up(places, tmp_path / "b.tar")
    write_bars(places.bars, "NEW", 1)
    (places.root / "new").write_text("an artifact")
    Store(places.tracking_uri).promote("sine", 2)
    fill_ledger(places.database)
    return places, tmp_path / "b.tar"


def put_before(program: str, folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a script of this name found first; `$REAL` in it is the program."""
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nREAL="{shutil.which(program)}"\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("cause", ["what the copy cannot replace", "the password", "no psql", "the end"])
def test_a_restore_that_fails_leaves_all_that_was_there(
    gone_wrong: tuple[Places, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    places, archive = gone_wrong
    said, given = "", places
    if cause == "what the copy cannot replace":
        with open_database(places.database) as engine, transaction(engine) as connection:
            connection.execute(text("ALTER TABLE keys RENAME TO old_keys"))
            connection.execute(text("CREATE VIEW keys AS SELECT 1 AS one"))
        said = "already exists"
    elif cause == "the password":
        given, said = replace(places, database=places.database.replace("a%20p", "no")), "does not answer .*password"
    elif cause == "no psql":
        monkeypatch.setenv("PATH", str(tmp_path))
        said = "(pg_restore|psql) is not installed"
    else:
        # the server refuses when everything else is done
        put_before("psql", tmp_path, 'sed -u \'s|^COMMIT;|SELECT 1/0;|\' | "$REAL" "$@"', monkeypatch)
        said = "division by zero"
    before, ledger = files_of(places.bars.parent), sizes(places.database)
    with pytest.raises(BackupError, match=said):
        restore(given, archive, force=True)
    assert files_of(places.bars.parent) == before
    assert sizes(places.database) == ledger
    if cause == "the end":
        monkeypatch.undo()
        restore(places, archive, force=True)
        assert sizes(places.database)["requests"] * 2 == ledger["requests"]
        assert BarStore(places.bars).symbols() == ["ABC", "brk.b"]


def test_a_setting_that_newer_clients_make_is_kept_from_a_server_that_does_not_know_it(
    site: Places, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, line = replace(site, database=fresh_database(postgres)), "SET transaction_timeout = 0;"
    with open_database(places.database) as engine:
        create_key(engine, line, ["forecast"])
    back_up(places, tmp_path / "b.tar", ("database",))
    # as those of 17 do it
    find = 'for last; do case "$last" in --file=*) file="${last#--file=}";; esac; done'
    add = f"sed -i 's/^SET lock_timeout = 0;$/&\\n{line}/' \"$file\" && grep -c '^{line}' \"$file\" > '{tmp_path}/seen'"
    put_before("pg_restore", tmp_path, f'{find}\n"$REAL" "$@" && {add}', monkeypatch)
    restore(places, tmp_path / "b.tar", force=True)
    assert (tmp_path / "seen").read_text() == "1\n"
    with open_database(places.database) as engine:
        assert [key.name for key in read_keys(engine)] == [line]


def test_the_password_is_in_no_argument_and_a_missing_program_is_named(
    site: Places, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_database(postgres)
    places = Places(site.tracking_uri, None, site.bars, database)
    with open_database(database):
        pass
    put_before("pg_dump", tmp_path, f'echo "$@" > "{tmp_path}/seen"\nexec "$REAL" "$@"', monkeypatch)
    back_up(places, tmp_path / "b.tar", ("database",))
    seen = (tmp_path / "seen").read_text()
    assert "--format=custom" in seen
    assert "p@ss" not in seen and "p%40ss" not in seen
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="pg_dump is not installed: install Postgres' client programs"):
        back_up(places, tmp_path / "c.tar", ("database",))
    assert not (tmp_path / "c.tar").exists()
