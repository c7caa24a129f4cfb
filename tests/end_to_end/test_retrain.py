"""`python -m pipelines.retrain`: repeated, interrupted, concurrent and failing retrainings."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from forecaster.registry.store import Store
from tests.conftest import ROOT, empty_store, run_module, start_module
from tests.data.prices import Company
from tests.mlflow_server import free_port, mlflow_server

SOAK = bool(os.environ.get("FORECASTER_SOAK"))
KILLS = 30
# critical moments for a kill: after an action, before it is recorded
MOMENTS = ("registered", "judged", "promoted") if SOAK else ("judged",)


def write_prices(folder: Path, last: str, *symbols: str) -> None:
    """Write a price file for each symbol, up to the session `last`."""
    for seed, symbol in enumerate(symbols):
        bars = Company(symbol, first="2023-01-03", last="2024-12-31", seed=seed).bars(last=last)
        bars.frame.reset_index(names="date").to_csv(folder / f"{symbol}.csv", index=False)


def write_job(folder: Path, **changes: dict[str, Any]) -> None:
    """Write a job that retrains on price files in seconds."""
    job: dict[str, Any] = {
        "fetch": {
            "symbols": ["ABC", "DEF"],
            "start": "2023-01-03",
            "end": "2024-12-31",
            "source": "files",
            "files": {"ABC": "ABC.csv", "DEF": "DEF.csv"},
            "calendar": "XNYS",
        },
        "train": {
            "name": "walk",
            "data": {"source": "store", "symbols": ["ABC", "DEF"], "max_age_sessions": None, "calendar": "XNYS"},
            "freq": "XNYS",
            "input_size": 10,
            "horizon": 2,
            "folds": 1,
            "transforms": [{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
            "model": {"cell": "simple_rnn", "widths": [4]},
            "fit": {"epochs": 2, "batch_size": 64},
        },
        "backtest": {"n_windows": 40, **({"refit": 20} if SOAK else {})},
        "promote": {"name": "walk", "gate": {"margin": 1.0, "coverage_tolerance": 0.9, "latency_seconds": 5}},
        "retrain": {},
    }
    for section, change in changes.items():
        job[section] |= change
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def retrain(folder: Path, *overrides: str) -> tuple[int, dict[str, Any], str]:
    """Retrain; return the exit status, the JSON result and stderr."""
    done = run_module("pipelines.retrain", "job.yaml", *(["--set", *overrides] if overrides else []), cwd=folder)
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_prices(tmp_path, "2024-10-31", "ABC", "DEF")
    write_job(tmp_path)
    (tmp_path / "mlruns").mkdir()
    empty_store(tmp_path / "mlruns")
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder after an uninterrupted retraining."""
    folder = tmp_path_factory.mktemp("clean")
    write_prices(folder, "2024-10-31", "ABC", "DEF")
    write_job(folder)
    status, answer, stderr = retrain(folder)
    assert (status, answer["outcome"]) == (0, "promoted"), stderr
    return folder


def read_state(folder: Path) -> dict[str, Any]:
    """Return everything that a retraining stores, without ids and times, which differ between runs."""
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(uri)
    model = Store(uri).find("walk")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    names = {run.info.run_id: f"{run.info.run_name} {run.data.tags.get('tried_as', '')}" for run in runs}
    files = [file.relative_to(folder / "mlruns") for file in (folder / "mlruns").rglob("*") if file.is_file()]
    return {
        "aliases": model.aliases,
        "versions": {version: names[run] for version, run in model.runs.items()},
        "runs": sorted(
            (names[run.info.run_id], run.info.status, sorted(run.data.metrics.items()), sorted(run.data.params.items()))
            for run in runs
        ),
        "decided": [run.data.tags["gate"] for run in runs if "gate" in run.data.tags],
        "files": sorted(
            "/".join(names.get(part, part) for part in file.parts) for file in files if ".lock" not in file.name
        ),
        "bars": {file.name: file.stat().st_size for file in sorted((folder / "mlruns" / "bars").glob("*.parquet"))},
    }


def test_second_retraining_changes_nothing(uninterrupted: Path) -> None:
    before = read_state(uninterrupted)
    assert before["aliases"] == {"champion": 1, "challenger": 1}
    status, answer, stderr = retrain(uninterrupted)
    assert (status, answer["outcome"], answer["version"]) == (0, "kept", 1), stderr
    assert "nothing has changed since it was trained" in answer["reason"]
    assert read_state(uninterrupted) == before


def test_new_sessions_make_a_version_and_a_rollback_is_respected(folder: Path) -> None:
    assert retrain(folder)[1]["version"] == 1
    write_prices(folder, "2024-11-29", "ABC", "DEF")
    _kill_in_mid_fit(folder)
    # new data, so that the killed training is not continued
    write_prices(folder, "2024-12-31", "ABC", "DEF")
    status, answer, stderr = retrain(folder, "retrain.warm_epochs=1", "promote.gate.better_by=0")
    assert (status, answer["version"]) == (0, 2), stderr
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    run = client.get_run(answer["run_id"])
    assert run.data.tags["warm_started_from"] == "1"
    assert len(client.get_metric_history(run.info.run_id, "served/loss")) == 1
    # the warm start ends with a smaller loss than the first epoch from random weights
    first, *_ = client.get_metric_history(run.info.run_id, "recipe/loss")
    assert run.data.metrics["served/loss"] < first.value
    statuses = [run.info.status for run in client.search_runs([run.info.experiment_id])]
    assert (statuses.count("KILLED"), set(statuses)) == (1, {"KILLED", "FINISHED"})
    assert not list((folder / "mlruns" / "checkpoints").iterdir())
    store = Store(f"sqlite:///{folder}/mlruns/mlflow.db")
    store.promote("walk", 2)
    client.set_tag(run.info.run_id, "promoted_at", "2026-01-01T00:00:00+00:00")
    store.roll_back("walk")
    status, answer, _ = retrain(folder, "retrain.warm_epochs=1")
    assert (status, answer["outcome"], answer["version"], answer["aliases"]["champion"]) == (0, "kept", 2, 1)
    assert "was champion before version 1" in answer["reason"]
    assert client.get_run(run.info.run_id).info.end_time == run.info.end_time


def _kill_in_mid_fit(folder: Path) -> None:
    process = start_module("pipelines.retrain", "job.yaml", "--set", "train.fit.epochs=500", cwd=folder)
    deadline = time.monotonic() + 120
    while not list((folder / "mlruns" / "checkpoints").glob("*/recipe.npz")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()


def test_changed_gate_judges_the_version_again(folder: Path) -> None:
    status, answer, stderr = retrain(folder, "promote.gate.margin=0.01")
    assert (status, answer["outcome"]) == (0, "kept"), stderr
    _, again, _ = retrain(folder, "promote.gate.margin=0.01")
    assert again["reason"].startswith("judged before, and nothing has changed since")
    # settings of tracking do not make a new version
    status, answer, stderr = retrain(folder, "train.tracking.patience_seconds=1")
    assert (status, answer["outcome"], answer["version"]) == (0, "promoted", 1), stderr


def test_failure_sets_the_exit_status_and_the_last_line(folder: Path) -> None:
    status, answer, _ = retrain(folder, "fetch.files={ABC: ABC.csv, DEF: nowhere.csv}")
    assert (status, answer["outcome"], answer["step"]) == (3, "failed", "fetch")
    assert "nowhere.csv" in answer["reason"]
    assert "retrain.without" in answer["reason"]
    status, answer, _ = retrain(folder, "train.data.max_age_sessions=5")
    assert (status, answer["step"]) == (3, "train")
    assert "max_age_sessions" in answer["reason"]
    status, answer, _ = retrain(folder, "train.fit.learning_rate=1e30", "train.fit.clip_norm=1e30")
    assert (status, answer["step"]) == (4, "train"), answer
    status, answer, _ = retrain(folder, "train.tracking.checkpoints=job.yaml/folder")
    assert (status, answer["step"]) == (1, "train"), answer
    for override, reason in (
        ("name=other", "'other' differs from train.name"),
        ("version=3", "promote.version: a retraining"),
    ):
        status, answer, stderr = retrain(folder, f"promote.{override}")
        assert (status, answer) == (2, {})
        assert reason in stderr
    assert Store(f"sqlite:///{folder}/mlruns/mlflow.db").names() == []


def test_missing_symbol_is_left_out_if_allowed(folder: Path) -> None:
    (folder / "DEF.csv").unlink()
    # a single symbol has too few windows for a 95 % interval
    status, answer, stderr = retrain(folder, "retrain.without=0.5", "backtest.levels=[80]")
    assert (status, answer["outcome"]) == (0, "promoted"), stderr
    assert list(answer["left_out"]) == ["DEF"]
    run = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db").get_run(answer["run_id"])
    assert "DEF" not in run.data.params["data.symbols"]


def test_second_concurrent_retraining_waits_and_changes_nothing(folder: Path) -> None:
    first, second = (start_module("pipelines.retrain", "job.yaml", cwd=folder) for _ in range(2))
    outputs = [process.communicate(timeout=300) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert sorted(json.loads(out.splitlines()[-1])["outcome"] for out, _ in outputs) == ["kept", "promoted"]
    assert sum("waiting for it" in err for _, err in outputs) == 1
    assert set(Store(f"sqlite:///{folder}/mlruns/mlflow.db").find("walk").runs) == {1}


def _kill_at(folder: Path, moment: str) -> None:
    """Retrain in a process that kills itself at a moment of `MOMENTS`."""
    program = f"""
import os, signal, sys
from forecaster.registry.store import Store
from forecaster.training import past_runs
def kill_after(function):
    def call(*arguments, **options):
        function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return call
moments = {{"registered": (Store, "register"), "judged": (past_runs, "log_decision"), "promoted": (Store, "promote")}}
owner, name = moments[{moment!r}]
setattr(owner, name, kill_after(getattr(owner, name)))
from pipelines.command import config_parser
from pipelines.retrain import main
sys.exit(main(config_parser("retrain", "", "").parse_args(["job.yaml"])))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("moment", MOMENTS)
def test_retraining_killed_at_a_critical_moment_continues(folder: Path, uninterrupted: Path, moment: str) -> None:
    _kill_at(folder, moment)
    status, answer, stderr = retrain(folder)
    assert (status, answer["outcome"]) == (0, "promoted"), stderr
    assert read_state(folder) == read_state(uninterrupted)


@pytest.mark.skipif(not SOAK, reason="a quarter of an hour: make soak")
def test_retraining_killed_at_random_moments_continues(tmp_path: Path, uninterrupted: Path) -> None:
    chance = random.Random(7)
    expected = read_state(uninterrupted)
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_prices(folder, "2024-10-31", "ABC", "DEF")
        write_job(folder)
        process = start_module("pipelines.retrain", "job.yaml", cwd=folder)
        # a retraining takes about 15 s on the reference machine
        seconds = chance.uniform(1, 15)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        status, answer, stderr = retrain(folder)
        assert (status, answer.get("version")) == (0, 1), (seconds, stderr)
        assert read_state(folder) == expected, f"killed after {seconds:.1f} s"
        shutil.rmtree(folder)


@pytest.mark.skipif(not SOAK, reason="most of a minute: make soak")
def test_fit_continues_while_mlflow_is_down(folder: Path) -> None:
    port = free_port()
    tracking = {"uri": f"http://127.0.0.1:{port}", "patience_seconds": 120}
    epochs = 12
    write_job(
        folder,
        train={"tracking": tracking, "fit": {"epochs": epochs, "batch_size": 32, "patience": epochs}},
        promote={"tracking": tracking},
    )
    with mlflow_server(f"sqlite:///{folder}/server.db", folder / "kept", port):
        process = start_module("pipelines.retrain", "job.yaml", cwd=folder)
        deadline = time.monotonic() + 120
        while not list((folder / "mlruns" / "checkpoints").glob("*/recipe.npz")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    kept: list[Path] = []
    while not kept:
        assert process.poll() is None, process.communicate()
        kept = list((folder / "mlruns" / "checkpoints").glob("*/epochs.jsonl"))
        time.sleep(0.01)
    time.sleep(2)
    with mlflow_server(f"sqlite:///{folder}/server.db", folder / "kept", port):
        out, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        assert "epochs are kept until it does" in stderr
        client = mlflow.MlflowClient(tracking["uri"])
        history = client.get_metric_history(json.loads(out.splitlines()[-1])["run_id"], "recipe/loss")
        assert sorted({metric.step for metric in history}) == list(range(epochs))
