"""Trainings: a successful one tracks a run and registers a version; a failed one registers nothing."""

import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.entities import Run
from sqlalchemy import Engine, event

from forecaster.data.windows import Windows, split_windows
from forecaster.domain.config import build_config, load_config
from forecaster.domain.errors import ForecasterError, StoreUnavailable, TooShortError, TrainingError, WorkspaceError
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.domain.static import NO_STATIC
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.trained import TrainedNetwork
from forecaster.registry.store import Store
from forecaster.training import job, networks, tracking
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.job import train
from forecaster.training.learning_rates import Cosine
from forecaster.training.stages import compile_untrained, evaluate
from forecaster.training.tracking import tracked_run
from forecaster.training.warm_start import load_weights
from tests.conftest import ROOT, TrainedModels, small_config, start_module


def runs(folder: Path) -> list[Run]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def test_run_records_the_configuration_the_data_and_the_results(models: TrainedModels) -> None:
    client = mlflow.MlflowClient(models.config.tracking.uri)
    run = client.get_run(models.versions[1].run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "sine lstm many_to_many"
    assert run.data.params["model.decoder.kind"] == "each_step"
    config = Path(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/config.yaml")).read_text()
    assert TrainConfig.model_validate(yaml.safe_load(config)).input_size == 24
    assert {"cell", "topology", "horizon", "dataset_digest", "git_revision", "backend", "devices"} <= set(run.data.tags)
    (dataset,) = run.inputs.dataset_inputs
    assert run.data.tags["dataset_digest"].startswith(dataset.dataset.digest)
    errors = {"mae", "rmse", "smape", "mase"}
    expected = {f"test/{prefix}{name}" for name in errors for prefix in ("", "naive-")} | {"test/relative_mae"}
    assert expected | {"test/coverage-80", "validation/mae"} <= set(run.data.metrics)
    assert run.data.metrics["test/relative_mae"] == pytest.approx(
        run.data.metrics["test/mae"] / run.data.metrics["test/naive-mae"]
    )
    for loss in ("recipe/loss", "recipe/validation_loss", "served/loss"):
        assert len(client.get_metric_history(run.info.run_id, loss)) > 1
    assert models.artifacts == {"config.yaml", "forecast.png", "model"}


def test_manifest_describes_the_training(models: TrainedModels) -> None:
    for number, registered in enumerate(models.versions, start=1):
        manifest = models.predictor(number).manifest
        assert registered.metrics["relative_mae"] < 0.4
        assert manifest.skill.relative_mae == registered.metrics["relative_mae"]
        assert manifest.recipe_metrics == registered.metrics
        assert manifest.trained_until == manifest.training_data.last == "2020-02-03T07:00:00.000000000"
        assert manifest.training_data.rows == 800


def test_trained_until_is_the_end_of_the_train_part_without_a_refit(tmp_path: Path) -> None:
    registered = train(small_config(tmp_path, refit=False, fit={"epochs": 1}))
    bundle = tmp_path / "artifacts" / registered.run_id / "artifacts" / "model"
    manifest = json.loads((bundle / "manifest.json").read_text())
    # 60 % of 800 hours
    assert manifest["trained_until"] == "2020-01-20T23:00:00.000000000"


def test_refit_with_a_step_size_includes_the_latest_observation(tmp_path: Path) -> None:
    registered = train(small_config(tmp_path, step_size=50, fit={"epochs": 1}))
    bundle = tmp_path / "artifacts" / registered.run_id / "artifacts" / "model"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["trained_until"] == manifest["training_data"]["last"]
    # the test part has a step size of 1: 160 rows hold 133 windows of 24 + 4 rows
    assert manifest["skill"]["n_windows"] == 133


@pytest.mark.parametrize("kind", ["standardize", "mean_std"])
@pytest.mark.parametrize("topology", ["many_to_one", "many_to_many"])
@pytest.mark.parametrize("level", [0, 100])
def test_series_with_flat_stretches_are_trained(tmp_path: Path, kind: str, topology: str, level: float) -> None:
    y = np.random.default_rng(0).poisson(3, 400).astype(float)
    y[100:150] = y[330:400] = 0
    times = np.datetime_as_string(np.arange(400).astype("M8[h]").astype("M8[s]"))
    rows = "\n".join(f"{time},{value + level}" for time, value in zip(times, y, strict=True))
    (tmp_path / "counts.csv").write_text(f"ds,y\n{rows}\n")
    data = {"source": "files", "path": str(tmp_path / "counts.csv")}
    model = {"cell": "gru", "widths": [4], "topology": topology}
    config = small_config(tmp_path, data=data, transforms=[{"kind": kind}], fit={"epochs": 1}, model=model)
    assert train(config).version == 1


def test_test_part_changes_only_the_metrics(tmp_path: Path) -> None:
    config = small_config(tmp_path, fit={"epochs": 3, "batch_size": 32, "learning_rate": 0.02})
    evaluations = []
    for change in (0.0, 9.0):
        frame = config.data.load()
        frame.loc[frame.index[-80:], "y"] += change
        series = prepare(config, frame)
        parts = split_windows(series, config.split, config.input_size, config.horizon)
        folder = tmp_path / str(change)
        folder.mkdir()
        evaluations.append(evaluate(config, parts, folder))
    first, second = evaluations
    for weights, others in zip(first.trained.model.get_weights(), second.trained.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)
    assert first.trained.preprocessing == second.trained.preprocessing
    np.testing.assert_array_equal(first.calibration.residuals, second.calibration.residuals)
    assert first.metrics["mae"] < second.metrics["mae"]


def test_evaluation_forecasts_each_part_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path, folds=0, fit={"epochs": 1})
    parts = split(config, prepare(config, config.data.load()))
    forecast, lengths = TrainedNetwork.forecast, []

    def count(trained: TrainedNetwork, windows: Windows) -> Forecasts:
        lengths.append(len(windows))
        return forecast(trained, windows)

    monkeypatch.setattr(TrainedNetwork, "forecast", count)
    evaluated = evaluate(config, parts, tmp_path)
    assert lengths == [len(parts[name]) for name in ("calibration", "validation", "test")]
    np.testing.assert_array_equal(evaluated.test_forecast, forecast(evaluated.trained, parts["test"]).mean)
    error = np.abs(evaluated.test_forecast - parts["test"].targets()).mean()
    assert evaluated.metrics["mae"] == pytest.approx(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": [], "fit": {"learning_rate": 1e30, "clip_norm": 1e30}}, "the loss is not finite"),
        ({"fit": {"learning_rate": 1e4}}, r"the loss is \S+e\+\d+, and that of a forecast of 0 is"),
        (
            {"fit": {"learning_rate": 1e4}, "model": {"cell": "gru", "head": "student_t"}},
            r"the loss is \S+, and that of a forecast of 0 is",
        ),
    ],
    ids=["not finite", "large", "large with a likelihood"],
)
def test_diverging_fit_is_a_failed_run_with_its_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=rf"the fit diverges: {message} .*lower fit\.learning_rate"):
        train(small_config(tmp_path, **changes))
    (run,) = runs(tmp_path)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("TrainingError: epoch 0: the fit diverges")
    assert Store(f"sqlite:///{tmp_path}/mlflow.db").names() == []


RECIPES = [path for path in sorted((ROOT / "pipelines" / "configs").glob("*.yaml")) if "\ntrain:" in path.read_text()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_can_be_read_again_from_its_run(path: Path) -> None:
    config = load_config(path, TrainConfig, [], "train")
    logged = json.loads(json.dumps(config.model_dump(mode="json")))
    assert build_config(logged, TrainConfig, "config.yaml") == config


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"decoder": "each_step"}, "decoder"),
        ({"cell": "gru_reset_before"}, "cell"),
        ({"head": {"kind": "quantile", "probabilities": [0.1, 0.5, 0.9]}}, "head"),
        ({"encoder": {"widths": [8], "residual": True}}, "encoder"),
        ({"skip": "ridge"}, "skip"),
    ],
)
def test_weights_of_another_network_are_refused(models: TrainedModels, changes: dict[str, Any], part: str) -> None:
    file = models.predictor(1).bundle.folder / KERAS_MODEL
    own = {"cell": "gru", "encoder": {"widths": [8], "dropout": 0.3}}
    shape = models.config.shape
    same = ModelConfig.model_validate(own)
    load_weights(build_model(same, shape), same, NO_STATIC, file)
    other = ModelConfig.model_validate(own | changes)
    with pytest.raises(TrainingError, match=f"whose {part} differ from the recipe's"):
        load_weights(build_model(other, shape), other, NO_STATIC, file)


def test_latest_networks_are_kept(models: TrainedModels) -> None:
    config = models.config.model_copy(update={"fit": models.config.fit.model_copy(update={"schedule": Cosine()})})
    with networks.reuse_networks(most=2) as cache:
        for n_windows in (64, 96, 128, 96):
            compile_untrained(config, n_windows, config.shape)
    assert [batches for *_, batches in cache.networks] == [3, 4]


def test_unsuitable_data_opens_no_run(tmp_path: Path) -> None:
    with pytest.raises(TooShortError, match="'sine' has 20 rows, needs 28"):
        train(small_config(tmp_path / "new", data={"source": "sine", "length": 20}))
    assert not list(tmp_path.iterdir())


@contextmanager
def _limit_file_size(size: int) -> Iterator[None]:
    """Make every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# the first write that fails: the store's tables, the checkpoint of the first epoch, or the bundle
@pytest.mark.parametrize("name", ["tracked_run", "evaluate", "write_bundle"])
def test_full_disk_registers_nothing_and_the_next_training_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = small_config(tmp_path, fit={"epochs": 1})
    module = tracking if name == "tracked_run" else job
    step = getattr(module, name)

    def without_space(*arguments: Any) -> Any:
        with _limit_file_size(2_000):
            return step(*arguments)

    @contextmanager
    def run_without_space(*arguments: Any) -> Iterator[str]:
        with _limit_file_size(2_000), step(*arguments) as run_id:
            yield run_id

    monkeypatch.setattr(module, name, run_without_space if name == "tracked_run" else without_space)
    with pytest.raises(
        ForecasterError, match=r"disk I/O error|disk is full|File too large|Unable to (synchronously )?"
    ):
        train(config)
    assert Store(config.tracking.uri).names() == []
    assert not list(tmp_path.rglob("model.*"))
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert {run.info.status for run in runs(tmp_path)} == (set() if name == "tracked_run" else {"FAILED"})
    monkeypatch.setattr(module, name, step)
    assert train(config).version == 1


def _train_until_ctrl_c(folder: Path) -> tuple[int, str]:
    config = small_config(folder, fit={"epochs": 500, "patience": 500}).model_dump(mode="json")
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    process = start_module("pipelines.train", "job.yaml", cwd=folder)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not list(folder.glob("checkpoints/*/recipe.npz")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == ""
    return process.returncode, err


def test_failure_to_open_a_run_does_not_block_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise mlflow.exceptions.MlflowException("database is locked")

    config = small_config(tmp_path).tracking
    Store(config.uri, create=True)
    tags = {"work": "w", "attempt": "a"}
    with pytest.raises(ValueError, match="first"), tracked_run(config, "one", tags):
        raise ValueError("first")
    with monkeypatch.context() as patch, pytest.raises(StoreUnavailable, match="database is locked"):
        patch.setattr(mlflow, "delete_tag", fail)
        with tracked_run(config, "one", tags):
            pytest.fail("the run was opened")
    with tracked_run(config, "one", tags) as run_id:
        pass
    run = mlflow.MlflowClient(config.uri).get_run(run_id)
    assert (run.info.status, "error" in run.data.tags) == ("FINISHED", False)


def test_ctrl_c_ends_the_run_as_killed_and_registers_nothing(tmp_path: Path) -> None:
    status, stderr = _train_until_ctrl_c(tmp_path)
    assert status == 130
    assert "run the same command to continue" in stderr
    assert "Traceback" not in stderr
    assert [run.info.status for run in runs(tmp_path)] == ["KILLED"]
    assert Store(f"sqlite:///{tmp_path}/mlflow.db").names() == []


def test_ctrl_c_waits_for_the_commit_of_a_metric(tmp_path: Path) -> None:
    config = small_config(tmp_path).tracking
    Store(config.uri, create=True)
    interrupted: list[str] = []

    def interrupt(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO metrics") and not interrupted:
            interrupted.append(statement)
            signal.raise_signal(signal.SIGINT)

    event.listen(Engine, "after_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), tracked_run(config, "one") as run_id:
            tracking.log_metrics({"mae": 1.0})
    finally:
        event.remove(Engine, "after_cursor_execute", interrupt)
    run = mlflow.MlflowClient(config.uri).get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("KILLED", {"test/mae": 1.0})


def test_second_training_of_the_same_configuration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path, fit={"epochs": 1})
    refused: list[bool] = []

    def evaluate_and_train_again(*arguments: Any) -> Any:
        with pytest.raises(WorkspaceError, match="another process is training this configuration"):
            train(config)
        refused.append(True)
        return evaluate(*arguments)

    monkeypatch.setattr(job, "evaluate", evaluate_and_train_again)
    assert train(config).version == 1
    assert refused == [True]
