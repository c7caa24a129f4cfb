"""Backups of Postgres: a restore replaces everything or nothing, and no argument contains the password."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from forecaster.backup.restore import restore
from forecaster.backup.save import Locations, back_up
from forecaster.data.store import BarStore
from forecaster.database.engine import transaction
from forecaster.database.keys import create_key, read_keys
from forecaster.database.schema import open_database
from forecaster.domain.errors import BackupError
from forecaster.registry.store import Store
from tests.backup.installation import files_of, fill_ledger, sizes, write_bars
from tests.postgres import fresh_database


def test_postgres_is_saved_and_restored(
    site: Locations, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    old = Locations(fresh_database(postgres), site.root, site.bars, fresh_database(postgres))
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
    # a path with a quote, whose URI has percent signs
    root = tmp_path / "it's 15 %" / "artifacts"
    new = Locations(fresh_database(postgres), root, tmp_path / "it's 15 %" / "bars", fresh_database(postgres))
    restore(new, archive)
    shutil.rmtree(site.bars.parent)
    assert sizes(new.database) == sizes(old.database)
    with open_database(new.database) as engine:
        assert [key.name for key in read_keys(engine)] == ["shop"]
        # the database's sequences continue with new ids
        with transaction(engine) as connection:
            connection.execute(text("INSERT INTO jobs (kind, model, reason, asked_at) VALUES ('k', 'm', 'r', 1)"))
    again = mlflow.MlflowClient(new.tracking_uri)
    assert again.get_run(run.run_id).info.artifact_uri == f"{root.as_uri()}/{run.run_id}/artifacts"
    assert again.get_run(other.info.run_id).info.artifact_uri.startswith("s3://bucket/x/")
    path = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{again.get_run(run.run_id).info.artifact_uri}/a.json", tracking_uri=new.tracking_uri
    )
    assert json.loads(Path(path).read_text()) == {"a": 1}

    with pytest.raises(BackupError, match="not empty") as refused:
        restore(new, archive)
    assert "p%40ss" not in str(refused.value)
    with open_database(new.database) as engine, transaction(engine) as connection:
        connection.execute(text("CREATE TABLE of_a_later_program (n INTEGER)"))
        connection.execute(text("DELETE FROM forecasts"))
    # MLflow's database also has functions
    restore(new, archive, ("registry", "database"), force=True)
    assert again.get_run(run.run_id).info.run_id == run.run_id
    assert sizes(new.database) == sizes(old.database)
    with open_database(new.database) as engine, transaction(engine) as connection:
        assert "of_a_later_program" not in inspect(connection).get_table_names()
        connection.execute(text("DELETE FROM forecasts"))
    # the only failure that cannot be undone: the second commit fails after the first has succeeded
    fail_commit = 'sed -u \'s|^COMMIT;|SELECT 1/0;|\' | "$REAL" "$@"'
    is_first = f'[ "$PGDATABASE" = {new.database.rpartition("/")[2]} ] || exec "$REAL" "$@"'
    wrap_program("psql", tmp_path, f"{is_first}\n{fail_commit}", monkeypatch)
    with pytest.raises(BackupError, match=r"division by zero; everything else is restored: run it again with --force"):
        restore(new, archive, force=True)
    assert sizes(new.database)["forecasts"] == 0
    assert sorted(path.name for path in root.parent.iterdir()) == ["artifacts", "bars"]


@pytest.fixture
def changed_since_backup(site: Locations, postgres: str, tmp_path: Path) -> tuple[Locations, Path]:
    """An installation that was changed after its backup, and the backup."""
    locations = Locations(site.tracking_uri, None, site.bars, fresh_database(postgres))
    fill_ledger(locations.database)
    back_up(locations, tmp_path / "b.tar")
    write_bars(locations.bars, "NEW", 1)
    (locations.root / "new").write_text("an artifact")
    Store(locations.tracking_uri).promote("sine", 2)
    fill_ledger(locations.database)
    return locations, tmp_path / "b.tar"


def wrap_program(program: str, folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a script with the program's name first on the PATH; in the script, `$REAL` is the program."""
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nREAL="{shutil.which(program)}"\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("cause", ["a view", "the password", "no psql", "the commit"])
def test_failed_restore_changes_nothing(
    changed_since_backup: tuple[Locations, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    locations, archive = changed_since_backup
    message, given = "", locations
    if cause == "a view":
        with open_database(locations.database) as engine, transaction(engine) as connection:
            connection.execute(text("ALTER TABLE keys RENAME TO old_keys"))
            connection.execute(text("CREATE VIEW keys AS SELECT 1 AS one"))
        message = "already exists"
    elif cause == "the password":
        given, message = (
            replace(locations, database=locations.database.replace("a%20p", "no")),
            "does not answer .*password",
        )
    elif cause == "no psql":
        monkeypatch.setenv("PATH", str(tmp_path))
        message = "(pg_restore|psql) is not installed"
    else:
        # the server fails after everything else is done
        wrap_program("psql", tmp_path, 'sed -u \'s|^COMMIT;|SELECT 1/0;|\' | "$REAL" "$@"', monkeypatch)
        message = "division by zero"
    before, ledger = files_of(locations.bars.parent), sizes(locations.database)
    with pytest.raises(BackupError, match=message):
        restore(given, archive, force=True)
    assert files_of(locations.bars.parent) == before
    assert sizes(locations.database) == ledger
    if cause == "the commit":
        monkeypatch.undo()
        restore(locations, archive, force=True)
        assert sizes(locations.database)["requests"] * 2 == ledger["requests"]
        assert BarStore(locations.bars).symbols() == ["ABC", "brk.b"]


def test_unsupported_setting_of_newer_clients_is_removed_from_the_dump(
    site: Locations, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locations, line = replace(site, database=fresh_database(postgres)), "SET transaction_timeout = 0;"
    with open_database(locations.database) as engine:
        create_key(engine, line, ["forecast"])
    back_up(locations, tmp_path / "b.tar", ("database",))
    # as the clients of Postgres 17 do
    find = 'for last; do case "$last" in --file=*) file="${last#--file=}";; esac; done'
    add = f"sed -i 's/^SET lock_timeout = 0;$/&\\n{line}/' \"$file\" && grep -c '^{line}' \"$file\" > '{tmp_path}/seen'"
    wrap_program("pg_restore", tmp_path, f'{find}\n"$REAL" "$@" && {add}', monkeypatch)
    restore(locations, tmp_path / "b.tar", force=True)
    assert (tmp_path / "seen").read_text() == "1\n"
    with open_database(locations.database) as engine:
        assert [key.name for key in read_keys(engine)] == [line]


def test_arguments_do_not_contain_the_password_and_error_names_a_missing_program(
    site: Locations, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_database(postgres)
    locations = Locations(site.tracking_uri, None, site.bars, database)
    with open_database(database):
        pass
    wrap_program("pg_dump", tmp_path, f'echo "$@" > "{tmp_path}/seen"\nexec "$REAL" "$@"', monkeypatch)
    back_up(locations, tmp_path / "b.tar", ("database",))
    seen = (tmp_path / "seen").read_text()
    assert "--format=custom" in seen
    assert "p@ss" not in seen and "p%40ss" not in seen
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="pg_dump is not installed: install Postgres' client programs"):
        back_up(locations, tmp_path / "c.tar", ("database",))
    assert not (tmp_path / "c.tar").exists()
