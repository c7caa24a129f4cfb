"""A search: trials nested in a run, resumed after a kill, and decided by the validation part alone."""

import contextlib
import json
import shlex
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import yaml

from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError, DatabaseUnavailable, StoreUnavailable, TrainingError
from forecaster.search import trial as trials_module
from forecaster.search.config import SearchConfig
from forecaster.search.search import SearchResult, search
from forecaster.search.study import Study
from forecaster.search.trial import find_common_cutoffs, trial_parts
from forecaster.training.config import TrainConfig, prepare
from pipelines.search import report
from tests.conftest import small_config, start_module
from tests.postgres import fresh_database

SPACE: dict[str, Any] = {
    "model.encoder.widths": [[2], [3]],
    "fit.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
}
CHOICES: dict[str, Any] = {"input_size": [6, 12], "fit.learning_rate": [0.02, -1]}


def tiny(folder: Path, **changes: Any) -> TrainConfig:
    """Return a recipe whose trials take as little time as can be."""
    tiny = {
        "data": {"source": "sine", "length": 400, "seed": 3, "sines": [{"period": 12}]},
        "input_size": 6,
        "horizon": 2,
        "model": {"cell": "simple_rnn", "encoder": {"widths": [2]}},
        "fit": {"epochs": 3, "batch_size": 64},
    }
    return small_config(folder, **tiny | changes)


def config_for(folder: Path, **changes: Any) -> SearchConfig:
    raw = {"space": SPACE, "storage": f"sqlite:///{folder}/search.db", "trials": 3} | changes
    return build_config(raw, SearchConfig, "test")


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{folder}/search.db")
    study = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{folder}/search.db")
    return list(study.get_trials())


def contents(trial: optuna.trial.FrozenTrial) -> Any:
    return trial.state, trial.params, trial.value, trial.intermediate_values


def runs_of(recipe: TrainConfig, result: SearchResult) -> list[Any]:
    """Return the runs nested in a search's run."""
    client = mlflow.MlflowClient(recipe.tracking.uri)
    experiment = client.get_run(result.run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'"))


@dataclass(frozen=True)
class Search:
    recipe: TrainConfig
    config: SearchConfig
    result: SearchResult
    folder: Path


@pytest.fixture(scope="module", autouse=True)
def _no_release() -> Iterator[None]:
    """Keep the memory of networks: to free it takes half a second after each trial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forecaster.training.networks.release", lambda: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    recipe, config = tiny(folder), config_for(folder)
    return Search(recipe, config, search(recipe, config), folder)


@pytest.fixture(scope="module")
def seen() -> list[Any]:
    """The actual values that each trial of `exhausted` was measured on."""
    return []


@pytest.fixture(scope="module")
def exhausted(tmp_path_factory: pytest.TempPathFactory, seen: list[Any]) -> Iterator[Search]:
    """A search of one trial, which was continued until all values were tried."""
    folder = tmp_path_factory.mktemp("exhausted")
    recipe = tiny(folder, fit={"epochs": 1, "batch_size": 128})

    def measured(actual: Any, mean: Any) -> float:
        seen.append(actual)
        return float(np.abs(actual - mean).mean())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials_module, "mae", measured)
        with contextlib.suppress(ConfigError):
            search(recipe, config_for(folder, space=CHOICES, trials=1))
        config = config_for(folder, space=CHOICES, trials=50)
        yield Search(recipe, config, search(recipe, config), folder)


def test_search_tracks_each_trial_and_finds_the_best(whole: Search) -> None:
    trials = trials_of(whole.folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert whole.result.validation_mae == min(trial.value for trial in trials if trial.value is not None)
    client = mlflow.MlflowClient(whole.recipe.tracking.uri)
    run = client.get_run(whole.result.run_id)
    assert (run.info.status, run.data.metrics["validation/mae"]) == ("FINISHED", whole.result.validation_mae)
    # which may hold a password
    assert not [name for name in run.data.params if "storage" in name]
    by_error = {each.data.metrics["validation/mae"]: each.data.params for each in runs_of(whole.recipe, whole.result)}
    assert len(by_error) == 3
    best = by_error[whole.result.validation_mae]
    assert {key: json.loads(value) for key, value in best.items()} == whole.result.values
    files = {file.path for file in client.list_artifacts(whole.result.run_id)}
    assert files >= {"history.png", "trials.png", "search.yaml"}
    assert not list(whole.folder.glob("checkpoints/search-*"))


def test_report_can_be_given_to_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"model.cell": "gru", "hist_exog": [{"column": "it's 🌦"}], "fit.learning_rate": 0.02}
    report(SearchResult("run", values, 0.5, {"complete": 1}))
    _, _, changes = capsys.readouterr().out.partition("--set ")
    parsed = dict(change.split("=", 1) for change in shlex.split(changes))
    assert {key: yaml.safe_load(value) for key, value in parsed.items()} == values


def test_larger_number_of_trials_continues_until_all_values_are_tried(exhausted: Search) -> None:
    assert exhausted.result.trials == {"complete": 2, "fail": 2}
    tried = [tuple(trial.params.values()) for trial in trials_of(exhausted.folder) if "error" in trial.user_attrs]
    assert len(set(tried)) == len(tried) == 2
    assert len(runs_of(exhausted.recipe, exhausted.result)) == 4
    # the same command runs no trial
    before = trials_of(exhausted.folder)
    again = search(exhausted.recipe, exhausted.config)
    assert (again, len(trials_of(exhausted.folder))) == (exhausted.result, len(before) + 1)


def test_combination_that_the_recipe_refuses_fails_alone(exhausted: Search) -> None:
    assert exhausted.result.values["fit.learning_rate"] == 0.02
    errors = [trial.user_attrs["error"] for trial in trials_of(exhausted.folder) if "error" in trial.user_attrs]
    assert all("fit.learning_rate: Input should be greater than 0" in error for error in errors)


def test_trials_of_any_input_size_are_measured_on_the_same_targets(exhausted: Search, seen: list[Any]) -> None:
    assert len(seen) == 2
    np.testing.assert_array_equal(*seen)


def test_trials_on_series_with_gaps_are_measured_on_the_same_targets(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, missing="mask")
    frame = recipe.load()
    # in the validation part, which has rows 240 to 279: a gap that is longer than the short window
    frame.loc[255:264, "y"] = np.nan
    cutoffs = find_common_cutoffs(recipe, prepare(recipe, frame), (3, 12))
    for size in (3, 6, 12):
        parts = trial_parts(recipe.model_copy(update={"input_size": size}), frame, cutoffs)
        assert set(parts) == {"train", "validation", "calibration"}
        windows = parts["validation"]
        np.testing.assert_array_equal(windows.starts(np.arange(len(windows))) + size, cutoffs)
    assert cutoffs.tolist() == [252, 253, 254, *range(266, 279)]


def test_killed_search_goes_on_as_if_it_had_not_been(
    whole: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, config = tiny(tmp_path), config_for(tmp_path)
    job = {"train": recipe.model_dump(mode="json"), "search": config.model_dump(mode="json")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    process = start_module("pipelines.search", "job.yaml", cwd=tmp_path)
    # in the second trial, before which the checkpoint of the first is removed
    while not (trial_states(tmp_path) == ["COMPLETE", "RUNNING"] and any(tmp_path.glob("checkpoints/*/*/recipe.npz"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    states = [trial.state.name for trial in trials_of(tmp_path)]
    assert (states[0], states[-1]) == ("COMPLETE", "RUNNING")

    # again, after the run of the last trial has ended, and before the trial has
    complete = Study.complete

    def complete_two(self: Study, number: int, error: float | None) -> None:
        if number == 2:
            raise KeyboardInterrupt
        complete(self, number, error)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Study, "complete", complete_two)
        search(recipe, config)
    result = search(recipe, config)
    assert list(map(contents, trials_of(tmp_path))) == list(map(contents, trials_of(whole.folder)))
    assert (result.values, result.trials) == (whole.result.values, whole.result.trials)
    assert [run.info.status for run in runs_of(recipe, result)] == ["FINISHED"] * 3


def has_completed_trial(folder: Path) -> bool:
    return "COMPLETE" in trial_states(folder)


def trial_states(folder: Path) -> list[str]:
    # the database and its tables exist only after a while
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{folder}/search.db?mode=ro", uri=True)
        with contextlib.closing(connection):
            return [state for (state,) in connection.execute("SELECT state FROM trials ORDER BY number")]
    return []


@dataclass(frozen=True)
class Fit:
    """What stands for fits, by the learning rate: the losses of its epochs, and the error of its forecasts."""

    losses: Callable[[float], list[float]]
    error: Callable[[float], float]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        def fit_network(config: TrainConfig, parts: Any, checkpoints: Path, on_epoch: Any) -> Any:
            rate = config.fit.learning_rate
            for epoch, loss in enumerate(self.losses(rate)):
                on_epoch("recipe", epoch, loss, loss)
            windows = parts["validation"]
            mean = windows.targets() + self.error(rate)
            return type("Trained", (), {"forecast": lambda self, windows: type("Mean", (), {"mean": mean})})(), None

        patch.setattr(trials_module, "fit_network", fit_network)
        patch.setattr("forecaster.search.search._log_figures", lambda study: None)


def test_pruned_trial_never_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the trials with the largest losses have the smallest errors
    Fit(lambda rate: [1 - rate] * 3, lambda rate: rate).install(monkeypatch)
    recipe, rates = tiny(tmp_path), [number / 10 for number in range(1, 10)]
    result = search(recipe, config_for(tmp_path, space={"fit.learning_rate": rates}, trials=9))
    states = {json.loads(trial.params["fit.learning_rate"]): trial.state.name for trial in trials_of(tmp_path)}
    pruned = {rate for rate, state in states.items() if state == "PRUNED"}
    assert pruned
    assert result.values["fit.learning_rate"] == min(set(rates) - pruned)
    outcomes = [run.data.tags.get("outcome") for run in runs_of(recipe, result)]
    assert outcomes.count("pruned") == result.trials["pruned"] == len(pruned)


def test_trial_that_cannot_succeed_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(rate: float) -> list[float]:
        if rate == 0.3:
            raise KeyboardInterrupt
        if rate == 0.4:
            raise TrainingError("the fit diverges")
        return [1.0]

    Fit(losses, lambda rate: np.inf if rate == 0.2 else 1.0).install(monkeypatch)
    recipe, config = tiny(tmp_path), config_for(tmp_path, space={"fit.learning_rate": [0.1, 0.2, 0.3, 0.4]}, trials=4)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(recipe, config)
    result = search(recipe, config)
    assert (result.values, result.trials) == ({"fit.learning_rate": 0.1}, {"complete": 1, "fail": 3})
    failed = [trial for trial in trials_of(tmp_path) if "error" in trial.user_attrs]
    errors = {trial.params["fit.learning_rate"]: trial.user_attrs["error"] for trial in failed}
    assert "are not finite" in errors["0.2"]
    assert errors["0.4"] == "the fit diverges"
    assert "its process ended before the first epoch" in errors["0.3"]


def test_search_that_is_killed_before_it_drops_a_repetition_does_not_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fit(lambda rate: [1.0], lambda rate: rate).install(monkeypatch)
    recipe, config = tiny(tmp_path), config_for(tmp_path, space={"fit.learning_rate": [0.1, 0.2]})

    def interrupted(self: Study, trial: optuna.Trial) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Study, "_drop", interrupted)
        search(recipe, config)
    assert search(recipe, config).trials == {"complete": 2}


def test_second_search_of_the_same_work_waits_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, results = threading.Event(), []
    recipe, config = tiny(tmp_path), config_for(tmp_path, space={"fit.learning_rate": [0.1, 0.2]})
    second = threading.Thread(target=lambda: results.append(search(recipe, config, waits.set)))

    def losses(rate: float) -> list[float]:
        if second.ident is None:
            second.start()
        assert waits.wait(30)
        return [1.0]

    Fit(losses, lambda rate: rate).install(monkeypatch)
    first = search(recipe, config)
    second.join()
    assert results == [first]
    assert len(runs_of(recipe, first)) == 2


def test_storage_that_is_lost_during_a_search_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(rate: float) -> list[float]:
        (tmp_path / "search.db").unlink()
        return [1.0]

    Fit(losses, lambda rate: 1.0).install(monkeypatch)
    with pytest.raises(DatabaseUnavailable, match=r"search\.db: the database was replaced or deleted"):
        search(tiny(tmp_path), config_for(tmp_path, space={"fit.learning_rate": [0.1, 0.2]}))


def test_storage_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    (tmp_path / "search.db").write_text("this is no database, but a text of some length" * 100)
    with pytest.raises(DatabaseUnavailable, match=r"does not answer .*file is not a database"):
        search(recipe, config_for(tmp_path))
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
    with pytest.raises(ConfigError, match=r"search\.storage: .* holds tables of another program"):
        search(recipe, config_for(tmp_path, storage=f"sqlite:///{tmp_path}/other.db"))
    # Postgres, which nobody serves there; its password must not be shown
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        search(recipe, config_for(tmp_path, storage="postgresql://me:secret@127.0.0.1:9/search"))
    assert "secret" not in str(caught.value)


def test_trials_are_kept_in_postgres(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Fit(lambda rate: [rate], lambda rate: rate).install(monkeypatch)
    space = {"fit.learning_rate": [0.1, 0.2, 0.3]}
    recipe, storage = tiny(tmp_path), fresh_database(postgres)
    search(recipe, config_for(tmp_path, space=space, storage=storage, trials=1))
    result = search(recipe, config_for(tmp_path, space=space, storage=storage, trials=3))
    assert (result.values, result.trials) == ({"fit.learning_rate": 0.1}, {"complete": 3})
    assert len(runs_of(recipe, result)) == 3


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: Dictionary should have at least 1 item"),
        ({"horizon": [2, 4]}, "horizon: trials could not be compared"),
        ({"least_rows": [2, 4]}, "least_rows: trials could not be compared"),
        ({"fit.learning_rate": {"low": 0.1, "high": 0.01}}, "low and high: low must be less than 0.01"),
        ({"fit.learning_rate": {"low": 0, "high": 1, "log": True}}, "low and log: .* must begin above 0"),
        ({"fit.learning_rate": [0.1]}, "space.fit.learning_rate.*at least 2 items"),
        ({"fit.learning_rate": [0.1, float("nan")]}, "nan is neither a number nor text"),
        ({"name": [1, 2], "stat_exog": [["a"], [date(2020, 1, 1)]]}, r"date.* is neither a number nor text"),
        ({"input_size": [6, "12"]}, "input_size: its values must be whole numbers"),
        ({"input_size": {"low": 1, "high": 2.5}}, "input_size: its values must be whole numbers"),
        (
            {"model.encoder": [{"widths": [2]}, {}], "model.encoder.widths": [[2], [3]]},
            "model.encoder and model.encoder.widths: one contains the other",
        ),
    ],
)
def test_space_that_cannot_be_searched_is_refused(tmp_path: Path, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, space=space)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_address": "10.0.0.1:6379"}, "workers and ray_address: need on: ray"),
        ({"on": "ray", "ray_address": "10.0.0.1:6379"}, "machines cannot share a SQLite file"),
    ],
)
def test_setting_that_cannot_work_on_ray_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, **changes)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"fit.rate": [0.1, 0.2]}, "fit.rate: unknown key"),
        ({"fit.epochs": {"low": 1.5, "high": 1.6}}, "fit.epochs: .*valid integer"),
        ({"model.encoder": [[2], [3]]}, "model.encoder: .*valid dictionary"),
        ({"fit.stateful.chunk": [6, 12]}, r"search\.space, fit\.stateful\.chunk: 'stateful' is a value"),
        ({"input_size": [6, 12]}, r"search\.space\.input_size and train\.least_rows"),
        # a combination of two keys, of which each can have other values
        ({"model.encoder.widths": [[], [0]], "fit.epochs": [1, 2]}, "widths"),
    ],
)
def test_space_of_which_no_trial_can_succeed_is_refused_before_any(
    tmp_path: Path, space: dict[str, Any], message: str
) -> None:
    recipe = tiny(tmp_path, missing="mask", least_rows=3)
    with pytest.raises(ConfigError, match=message):
        search(recipe, config_for(tmp_path, space=space))
    assert not (tmp_path / "search.db").exists()


@pytest.mark.parametrize(
    ("space", "transform", "prunes"),
    [
        ({"input_size": [6, 12]}, "standardize", True),
        # divided by the deviation of windows of other lengths
        ({"input_size": [6, 12]}, "mean_std", False),
        ({"transforms": [[], [{"kind": "log"}]]}, "standardize", False),
        ({"model.head": ["point", "student_t"]}, "standardize", False),
        ({"model": [{"head": "point"}, {"head": "student_t"}]}, "standardize", False),
    ],
)
def test_trials_whose_losses_have_different_units_are_not_pruned(
    tmp_path: Path, space: dict[str, Any], transform: str, prunes: bool
) -> None:
    recipe = tiny(tmp_path, transforms=[{"kind": transform}])
    assert config_for(tmp_path, space=space).prunes(recipe) is prunes
