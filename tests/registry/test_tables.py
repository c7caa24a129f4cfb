"""MLflow's tables: the migration upgrades a store, on SQLite and on Postgres."""

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
_LIST_EXPERIMENTS = """
import mlflow, sys
print([experiment.name for experiment in mlflow.MlflowClient(sys.argv[1]).search_experiments()])
"""


def _newer_mlflow(folder: Path, newest: str) -> dict[str, str]:
    """Create a copy of MLflow with one more migration; return the environment variables that select it."""
    original, copy = Path(mlflow.__file__).parent, folder / "mlflow"
    inner = ("store", "db_migrations", "versions")
    for depth in range(len(inner) + 1):
        here = copy.joinpath(*inner[:depth])
        here.mkdir(parents=True)
        for entry in original.joinpath(*inner[:depth]).iterdir():
            if entry.name not in (*inner[depth : depth + 1], "__pycache__"):
                (here / entry.name).symlink_to(entry)
    copy.joinpath(*inner, "tomorrow.py").write_text(_REVISION.format(newest=newest))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def _migrate(folder: Path, uri: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    environment |= {"FORECASTER_TRACKING_URI": uri}
    return run_module("pipelines.migrate", "--parts", "registry", cwd=folder, **environment)


def _answer(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_newer_mlflow_refuses_a_store_until_it_is_migrated(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    is_file = kind == "sqlite"
    uri = f"sqlite:///{tmp_path}/mlflow.db" if is_file else fresh_database(request.getfixturevalue("postgres"))
    if is_file:
        Store(uri, create=True)
    # migrates a current SQLite file, or an empty Postgres database
    newest = _answer(_migrate(tmp_path, uri))["registry_revision"]
    mlflow.MlflowClient(uri).create_experiment("mine")
    newer = _newer_mlflow(tmp_path / "newer", newest)

    def list_experiments() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", _LIST_EXPERIMENTS, uri]
        return subprocess.run(command, env={**os.environ, **newer}, capture_output=True, text=True, check=False)

    assert "Detected out-of-date database schema" in list_experiments().stderr
    done = _migrate(tmp_path, uri, **newer)
    assert _answer(done)["registry_revision"] == "tomorrow"
    assert "p%40ss" not in done.stdout + done.stderr
    assert "'mine'" in list_experiments().stdout
    older = _migrate(tmp_path, uri)
    assert (older.returncode, "belong to a newer MLflow, update this program" in older.stderr) == (1, True)


def test_nothing_is_migrated_before_the_first_training_or_for_a_server(tmp_path: Path) -> None:
    for uri in ("", "http://127.0.0.1:1"):
        done = run_module(
            "pipelines.migrate", "--database", "sqlite:///ledger.db", cwd=tmp_path, FORECASTER_TRACKING_URI=uri
        )
        answer = _answer(done)
        assert answer["revision"] is not None
        assert answer["registry_revision"] is None
    assert {path.name.partition(".db")[0] for path in tmp_path.iterdir()} == {"ledger"}
