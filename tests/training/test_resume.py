"""A training killed by SIGKILL and started again ends like an uninterrupted one: same weights, one run, one version."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import yaml

from forecaster.registry.store import Store
from tests.conftest import run_module, small_config, start_module


def _write_config(folder: Path) -> Path:
    model = {"cell": "lstm", "widths": [6], "dropout": 0.2, "members": 2}
    fit = {
        "epochs": 12,
        "batch_size": 16,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "patience": 12,
        "ema_decay": 0.9,
    }
    config = small_config(folder, model=model, fit=fit).model_dump(mode="json")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _epochs(checkpoint: Path) -> int:
    """Return the number of epochs in a checkpoint, which appears by rename."""
    if not checkpoint.exists():
        return 0
    with np.load(checkpoint) as saved:
        return len(json.loads(str(saved["history"]))["loss"])


def _kill_during(folder: Path, config: Path, phase: str, epochs: int) -> None:
    """Start the training and kill it once a phase has finished `epochs` epochs."""
    process = start_module("pipelines.train", config, cwd=folder)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list((folder / "checkpoints").glob(f"*/{phase}.npz"))
        if found and _epochs(found[0]) >= epochs:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL, stderr


def _weights(answer: dict[str, Any], folder: Path) -> list[np.ndarray]:
    import keras

    bundle = folder / "artifacts" / answer["run_id"] / "artifacts" / "model"
    weights: list[np.ndarray] = keras.models.load_model(bundle / "model.keras", compile=False).get_weights()
    return weights


def _calibration(answer: dict[str, Any], folder: Path) -> str:
    bundle = folder / "artifacts" / answer["run_id"] / "artifacts" / "model"
    return str((bundle / "calibration.json").read_text())


def test_killed_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    configs = {}
    for folder in (clean, killed):
        folder.mkdir()
        configs[folder] = _write_config(folder)
    _kill_during(killed, configs[killed], "recipe", 3)
    _kill_during(killed, configs[killed], "fold-1", 2)
    _kill_during(killed, configs[killed], "served", 2)
    answers = {}
    for folder in (clean, killed):
        done = run_module("pipelines.train", configs[folder], cwd=folder)
        assert done.returncode == 0, done.stderr
        answers[folder] = json.loads(done.stdout.splitlines()[-1])
    for whole, resumed in zip(_weights(answers[clean], clean), _weights(answers[killed], killed), strict=True):
        np.testing.assert_array_equal(whole, resumed)
    assert answers[clean]["metrics"] == answers[killed]["metrics"]
    assert _calibration(answers[clean], clean) == _calibration(answers[killed], killed)
    assert Store(f"sqlite:///{killed}/mlflow.db").find("sine").runs == {1: answers[killed]["run_id"]}
    client = mlflow.MlflowClient(f"sqlite:///{killed}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("forecaster").experiment_id])
    assert run.info.status == "FINISHED"
    # every epoch is logged; a killed epoch may be logged twice, with the same loss
    losses = {(loss.step, loss.value) for loss in client.get_metric_history(run.info.run_id, "recipe/loss")}
    assert sorted(step for step, _ in losses) == list(range(12))
    assert not list((killed / "checkpoints").iterdir())
