"""Backtests killed by SIGKILL: the next command ends their runs, but no run of a live process."""

import json
import signal
from pathlib import Path
from typing import Any

import mlflow
import yaml

from forecaster.training.job import train
from tests.conftest import run_module, small_config, start_module
from tests.fleet.test_fleet import wait_until

BACKTEST = {"n_windows": 40, "refit": "each", "baselines": ["naive"]}


def _write_job(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    recipe = small_config(folder, fit={"epochs": 1}, refit=False).model_dump(mode="json")
    tracking = recipe["tracking"]
    promote = {"name": "sine", "backtest": BACKTEST, "tracking": tracking}
    (folder / "job.yaml").write_text(yaml.safe_dump({"train": recipe, "backtest": BACKTEST, "promote": promote}))


def _start_backtest(pipeline: str, folder: Path) -> Any:
    """Start a command, and return once it is fitting networks."""
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


def test_next_command_ends_the_run_of_a_killed_backtest(tmp_path: Path) -> None:
    _write_job(tmp_path)
    _kill(_start_backtest("pipelines.backtest", tmp_path))
    assert _runs(tmp_path) == [("backtest", "RUNNING")]
    done = run_module("pipelines.backtest", "job.yaml", "--set", "n_windows=2", "refit=never", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _runs(tmp_path) == [("backtest", "KILLED"), ("backtest", "FINISHED")]
    # the killed backtest's checkpoints are kept for its next start
    assert list((tmp_path / "checkpoints").glob("backtest-*/1"))


def test_training_ends_the_run_of_a_killed_promotion_but_not_of_a_live_one(tmp_path: Path) -> None:
    _write_job(tmp_path)
    train(small_config(tmp_path, fit={"epochs": 1}, refit=False))
    _kill(_start_backtest("pipelines.promote", tmp_path))
    assert _runs(tmp_path)[1:] == [("backtest", "RUNNING")]
    live = _start_backtest("pipelines.promote", tmp_path)
    try:
        # the training ends the model's killed runs, but this one is live
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
