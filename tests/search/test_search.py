"""A search: trials nested in a run, resumed after a kill, and decided by the validation part alone."""

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import yaml
from sqlalchemy.exc import SQLAlchemyError

from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError
from forecaster.search.search import SearchConfig, search
from tests.conftest import run_module, small_config, start_module

SPACE: dict[str, Any] = {
    "model.encoder.widths": [[4], [8], [6, 6]],
    "fit.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
}


def config_for(folder: Path, **changes: Any) -> SearchConfig:
    return build_config(
        {"space": SPACE, "storage": f"sqlite:///{folder}/search.db", "trials": 4} | changes, SearchConfig, "test"
    )


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{folder}/search.db")
    study = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{folder}/search.db")
    return list(study.get_trials())


def test_search_tracks_each_trial_and_finds_the_best(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit={"epochs": 3, "batch_size": 32})
    result = search(recipe, config_for(tmp_path))
    finished = [trial for trial in trials_of(tmp_path) if trial.value is not None]
    assert result.validation_mae == min(trial.value for trial in finished if trial.value is not None)
    client = mlflow.MlflowClient(recipe.tracking.uri)
    run = client.get_run(result.run_id)
    assert (run.info.status, run.data.metrics["validation/mae"]) == ("FINISHED", result.validation_mae)
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    assert len(nested) == sum(result.trials.values()) == 4
    by_error = {each.data.metrics.get("validation/mae"): each.data.params for each in nested}
    assert {key: json.loads(value) for key, value in by_error[result.validation_mae].items()} == result.values
    assert {file.path for file in client.list_artifacts(result.run_id)} >= {"history.png", "trials.png", "search.yaml"}
    # all trials are finished: the same command runs none
    again = search(recipe, config_for(tmp_path))
    assert (again.values, again.run_id, len(trials_of(tmp_path))) == (result.values, result.run_id, 4)


def test_killed_search_repeats_no_finished_trial(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit={"epochs": 20, "batch_size": 8}).model_dump(mode="json")
    job = {"train": recipe, "search": config_for(tmp_path, trials=3, prune=False).model_dump(mode="json")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    process = start_module("pipelines.search", "job.yaml", cwd=tmp_path)
    # in the second trial
    while not (_finished(tmp_path) and any(tmp_path.glob("checkpoints/*/*/recipe.npz"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first, interrupted = trials_of(tmp_path)
    done = run_module("pipelines.search", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["trials"] == {"complete": 3}
    trials = trials_of(tmp_path)
    assert trials[0] == first
    # the trial that was running, run again with the same values
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == interrupted.params
    assert f"--set '{next(iter(answer['values']))}=" in done.stdout
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("forecaster")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 4 + ["KILLED"]
    assert not list(tmp_path.glob("checkpoints/search-*"))


def _finished(folder: Path) -> list[optuna.trial.FrozenTrial]:
    # the database has its tables and its study only after a while
    with contextlib.suppress(ValueError, SQLAlchemyError):
        return [trial for trial in trials_of(folder) if trial.state.name == "COMPLETE"]
    return []


def test_trial_that_diverges_fails_alone(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit={"epochs": 2, "batch_size": 32})
    result = search(recipe, config_for(tmp_path, space={"fit.learning_rate": [0.01, 1e30]}, trials=2))
    assert (result.trials, result.values) == ({"complete": 1, "fail": 1}, {"fit.learning_rate": 0.01})
    (failed,) = [trial for trial in trials_of(tmp_path) if trial.value is None]
    assert "diverges" in failed.user_attrs["error"]


def test_search_ends_when_all_values_are_tried(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit={"epochs": 1, "batch_size": 64})
    result = search(recipe, config_for(tmp_path, space={"model.cell": ["gru", "lstm"]}, trials=50))
    assert result.trials == {"complete": 2}


def test_trials_of_any_input_size_are_measured_on_the_same_targets(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit={"epochs": 1, "batch_size": 64}, transforms=[])
    seen: list[Any] = []

    def measured(actual: Any, mean: Any) -> float:
        seen.append(actual)
        return float(np.abs(actual - mean).mean())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forecaster.search.search.mae", measured)
        search(recipe, config_for(tmp_path, space={"input_size": [6, 24]}, trials=2))
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"horizon": [2, 4]}, "horizon: trials could not be compared"),
        ({"fit.learning_rate": {"low": 0.1, "high": 0.01}}, "low and high: low must be less than 0.01"),
        ({"fit.learning_rate": {"low": 0, "high": 1, "log": True}}, "low and log: .* must begin above 0"),
        ({"fit.learning_rate": [0.1]}, "space.fit.learning_rate.*at least 2 items"),
    ],
)
def test_space_that_cannot_be_searched_is_refused(tmp_path: Path, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, space=space)


def test_unknown_key_is_named(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit={"epochs": 1})
    with pytest.raises(ConfigError, match=r"search\.space: no trial succeeded"):
        search(recipe, config_for(tmp_path, space={"fit.rate": [0.1, 0.2]}, trials=2))
    assert "fit.rate: unknown key" in trials_of(tmp_path)[0].user_attrs["error"]
