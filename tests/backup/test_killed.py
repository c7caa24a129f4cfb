"""kill -9 of a command that tries recipes: the next start closes its runs, and no run of a process that lives."""

import json
import signal
from pathlib import Path
from typing import Any

import mlflow
import yaml

from tests.conftest import run_module, small_config, start_module
from tests.fleet.test_fleet import wait_until

TRIAL = {"n_windows": 40, "refit": "each", "baselines": ["naive"]}


def _write_job(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    recipe = small_config(folder, fit={"epochs": 1}, refit=False).model_dump(mode="json")
    tracking = recipe["tracking"]
    promote = {"name": "sine", "backtest": TRIAL, "tracking": tracking}
    (folder / "job.yaml").write_text(yaml.safe_dump({"train": recipe, "backtest": TRIAL, "promote": promote}))


def _start_a_trial(pipeline: str, folder: Path) -> Any:
    """Start a command, and return when it is in the midst of its fits."""
    process = start_module(pipeline, "job.yaml", cwd=folder)
    wait_until(lambda: list((folder / "checkpoints").glob("backtest-*/1")), process)
    return process


def _kill(process: Any) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _runs(folder: Path) -> list[tuple[str, str]]:
    """Return the kind and the status of each run, oldest first."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("forecaster")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [(run.data.tags.get("kind", "refit"), run.info.status) for run in found]


def test_a_killed_backtest_is_closed_by_the_next_start_of_any_command(tmp_path: Path) -> None:
    _write_job(tmp_path)
    _kill(_start_a_trial("pipelines.backtest", tmp_path))
    assert _runs(tmp_path) == [("backtest", "RUNNING")]
    done = run_module("pipelines.backtest", "job.yaml", "--set", "n_windows=2", "refit=never", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _runs(tmp_path) == [("backtest", "KILLED"), ("backtest", "FINISHED")]
    # the same backtest goes on from the checkpoints of the killed one, as a run of its own
    assert list((tmp_path / "checkpoints").glob("backtest-*/1"))


def test_a_killed_promotion_is_closed_by_the_next_and_a_training_leaves_a_live_one_open(tmp_path: Path) -> None:
    _write_job(tmp_path)
    done = run_module("pipelines.train", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _kill(_start_a_trial("pipelines.promote", tmp_path))
    assert _runs(tmp_path)[1:] == [("backtest", "RUNNING")]
    live = _start_a_trial("pipelines.promote", tmp_path)
    try:
        # a training closes what was killed of its model, and this one is at work
        done = run_module("pipelines.train", "job.yaml", "--set", "seed=5", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [status for kind, status in _runs(tmp_path) if kind == "backtest"] == ["RUNNING"]
    finally:
        _kill(live)
    done = run_module(
        "pipelines.promote", "job.yaml", "--set", "backtest.n_windows=2", "backtest.refit=never", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["version"] == 2
    statuses = [status for _, status in _runs(tmp_path)]
    assert "RUNNING" not in statuses
    assert statuses.count("KILLED") == 1
