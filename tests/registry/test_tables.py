"""MLflow's tables: a store from before an upgrade is brought up to date, on both kinds of database."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from forecaster.registry.store import Store
from tests.conftest import ROOT, run_module
from tests.postgres import fresh_database

_REVISION = """
import sqlalchemy
from alembic import op

revision, down_revision = "tomorrow", "{newest}"

def upgrade():
    op.add_column("experiments", sqlalchemy.Column("note", sqlalchemy.Text()))
"""
_LOOK = "import mlflow, sys; print([one.name for one in mlflow.MlflowClient(sys.argv[1]).search_experiments()])"


def _newer_mlflow(folder: Path, newest: str) -> dict[str, str]:
    """Lay MLflow, with one more migration, before the one that is installed; return the variables that take it."""
    original, place = Path(mlflow.__file__).parent, folder / "mlflow"
    inner = ("store", "db_migrations", "versions")
    for depth in range(len(inner) + 1):
        here = place.joinpath(*inner[:depth])
        here.mkdir(parents=True)
        for entry in original.joinpath(*inner[:depth]).iterdir():
            if entry.name not in (*inner[depth : depth + 1], "__pycache__"):
                (here / entry.name).symlink_to(entry)
    place.joinpath(*inner, "tomorrow.py").write_text(_REVISION.format(newest=newest))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def _migrated(folder: Path, uri: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    environment |= {"FORECASTER_TRACKING_URI": uri}
    return run_module("pipelines.migrate", "--parts", "registry", cwd=folder, **environment)


def _answer(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_newer_mlflow_refuses_a_store_until_it_is_migrated(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    is_file = kind == "sqlite"
    uri = f"sqlite:///{tmp_path}/mlflow.db" if is_file else fresh_database(request.getfixturevalue("postgres"))
    if is_file:
        Store(uri, create=True)
    # of a database that lacks nothing, or of one that has nothing
    newest = _answer(_migrated(tmp_path, uri))["registry_revision"]
    mlflow.MlflowClient(uri).create_experiment("mine")
    newer = _newer_mlflow(tmp_path / "newer", newest)

    def look() -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-c", _LOOK, uri]
        return subprocess.run(words, env={**os.environ, **newer}, capture_output=True, text=True, check=False)

    assert "Detected out-of-date database schema" in look().stderr
    done = _migrated(tmp_path, uri, **newer)
    assert _answer(done)["registry_revision"] == "tomorrow"
    assert "p%40ss" not in done.stdout + done.stderr
    assert "'mine'" in look().stdout
    older = _migrated(tmp_path, uri)
    assert (older.returncode, "of a newer MLflow update this program" in older.stderr) == (1, True)


def test_there_is_nothing_to_migrate_before_the_first_training_or_behind_a_server(tmp_path: Path) -> None:
    for uri in ("", "http://127.0.0.1:1"):
        done = run_module(
            "pipelines.migrate", "--database", "sqlite:///ledger.db", cwd=tmp_path, FORECASTER_TRACKING_URI=uri
        )
        answer = _answer(done)
        assert answer["revision"] is not None
        assert answer["registry_revision"] is None
    assert {path.name.partition(".db")[0] for path in tmp_path.iterdir()} == {"ledger"}
