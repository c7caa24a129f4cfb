"""The pipelines' command lines: training, promotion, backtests, invalid input, and serving by MLflow."""

import gzip
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT, TrainedModels, run_module, small_config, start_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a job")
    config = small_config(folder, fit={"epochs": 2, "learning_rate": 0.02}).model_dump(mode="json")
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    promotion = {"name": "sine", "tracking": config["tracking"]}
    (folder / "promote.yaml").write_text(yaml.safe_dump(promotion))
    return folder


def test_train_and_promote_print_json_last(folder: Path) -> None:
    done = run_module("pipelines.train", "job.yaml", "--set", "model.cell=simple_rnn", "horizon=3", cwd=folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert set(answer) == {"run_id", "model", "version", "metrics"}
    assert (answer["model"], answer["version"]) == ("sine", 1)
    assert {"mae", "naive-mae", "relative_mae", "mase", "smape", "rmse"} <= set(answer["metrics"])
    assert "epoch" in done.stderr
    again = run_module("pipelines.train", "job.yaml", "--set", "model.encoder.widths=[4,4]", cwd=folder)
    assert json.loads(again.stdout.splitlines()[-1])["version"] == 2
    for arguments, aliases in (
        (["version=1"], {"champion": 1}),
        ([], {"champion": 2, "previous": 1}),
    ):
        promoted = run_module(
            "pipelines.promote",
            "promote.yaml",
            "--without-gate",
            *(["--set", *arguments] if arguments else []),
            cwd=folder,
        )
        assert json.loads(promoted.stdout.splitlines()[-1])["aliases"] == aliases, promoted.stderr


def test_invalid_configuration_exits_with_status_2_and_opens_no_run(tmp_path: Path) -> None:
    good = yaml.safe_dump(small_config(tmp_path).model_dump(mode="json"))
    (tmp_path / "twice.yaml").write_text(good + "horizon: 3\n")
    (tmp_path / "job.yaml").write_text(good)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"ds,y\n" + b"2026-01-01,1\n" * 1000)[:-20])
    cases = {
        "duplicate key 'horizon'": ["twice.yaml"],
        "data.seed: ": ["job.yaml", "--set", "data.seed=-1"],
        "data.length: ": ["job.yaml", "--set", f"data.length={10**13}"],
        "cut.csv.gz: cannot be read": ["job.yaml", "--set", "data={source: files, path: cut.csv.gz}"],
    }
    for message, arguments in cases.items():
        done = run_module("pipelines.train", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    # the store is created before the data are read, but has no run
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    assert not (tmp_path / "checkpoints").exists()


def test_concurrent_trainings_on_a_new_store_succeed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text((folder / "job.yaml").read_text())
    uri = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    processes = [
        start_module("pipelines.train", "job.yaml", "--set", uri, f"seed={seed}", "fit.epochs=1", cwd=tmp_path)
        for seed in range(2)
    ]
    versions = set()
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        versions.add(json.loads(out.splitlines()[-1])["version"])
    assert versions == {1, 2}


@pytest.mark.parametrize("pipeline", ["train", "promote", "fetch", "demo", "forecast", "backup", "restore"])
def test_help_has_a_purpose_and_examples(pipeline: str, tmp_path: Path) -> None:
    done = run_module(f"pipelines.{pipeline}", "--help", cwd=tmp_path)
    assert done.returncode == 0
    usage, description, *_ = done.stdout.split("\n\n")
    assert usage.startswith(f"usage: python -m pipelines.{pipeline} ")
    assert description.endswith(".")
    assert re.search(rf"\nexamples?:\n  python -m pipelines\.{pipeline}\b", done.stdout)


BAD: dict[str, tuple[list[str], int, str]] = {
    "no file": (["absent.yaml"], 2, "error: absent.yaml: cannot be read"),
    "unknown key": (["job.yaml", "--set", "modle.cell=gru"], 2, "error: job.yaml: modle: unknown key"),
    "unknown cell": (["job.yaml", "--set", "model.cell=cnn"], 2, "model.cell: must be one of simple_rnn, lstm, gru"),
    "horizon 0": (["job.yaml", "--set", "horizon=0"], 2, "horizon: "),
    "no data": (["job.yaml", "--set", "data={source: files, path: nowhere.csv}"], 1, "nowhere.csv: cannot be read"),
    "too short": (["job.yaml", "--set", "data.length=30"], 1, "'sine' has"),
    "horizon a million": (["job.yaml", "--set", "horizon=1000000"], 2, "horizon: "),
}


@pytest.mark.parametrize(("arguments", "status", "message"), BAD.values(), ids=BAD.keys())
def test_invalid_input_sets_the_exit_status_and_prints_an_error(
    folder: Path, arguments: list[str], status: int, message: str
) -> None:
    before = _count_versions(folder)
    done = run_module("pipelines.train", *arguments, cwd=folder)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert _count_versions(folder) == before


def _count_versions(folder: Path) -> int:
    return len(list(folder.glob("artifacts/*/artifacts/model")))


@contextmanager
def _mlflow_serving(models: TrainedModels, version: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries = Path(sys.executable).parent
    process = subprocess.Popen(
        [binaries / "mlflow", "models", "serve", "-m", f"models:/sine/{version}", "--env-manager", "local",
         "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "MLFLOW_TRACKING_URI": models.config.tracking.uri,
             "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        cwd=models.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None and time.monotonic() < deadline, "mlflow models serve did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        # mlflow leaves its server running if only the parent process is stopped
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.parametrize("version", [1, 2])
def test_mlflow_serves_the_same_forecasts(models: TrainedModels, version: int) -> None:
    predictor = models.predictor(version)
    windows = np.random.default_rng(4).normal(size=(3, predictor.manifest.input_size))
    with _mlflow_serving(models, version) as url:
        body = json.dumps({"inputs": {"x": windows[:, :, None].tolist()}}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            predictions: dict[str, Any] = json.load(answer)["predictions"]
    np.testing.assert_array_equal(predictions["mean"], predictor.predict_arrays(windows))


def test_make_help_lists_every_command() -> None:
    stdout = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("setup", "demo", "serve", "ui", "check", "test", "bench-peers", "lock", "clean"):
        assert any(line.startswith((f"{command} ", f"{command}:")) for line in stdout.splitlines()), stdout


def test_backtest_reads_both_sections(folder: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((folder / "job.yaml").read_text())
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"train": recipe, "backtest": {"n_windows": 12}}))
    changes = ["cells=[gru, simple_rnn]", "train.fit.epochs=1", f"train.tracking.uri=sqlite:///{tmp_path}/m.db"]
    done = run_module("pipelines.backtest", "job.yaml", "--set", *changes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert [run["cell"] for run in runs] == ["gru", "simple_rnn"]
    assert "12 cutoffs, step size 1, refit: never" in done.stdout
    for name in ("gru", "simple_rnn", "naive", "ridge"):
        assert f" {name} " in done.stdout
    refused = run_module("pipelines.backtest", "job.yaml", "--set", "train.fit.epoch=1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "job.yaml, train: fit.epoch: unknown key" in refused.stderr
