"""Planted leaks: each is found, and its version kept out of the registry; those that no audit can see are named."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from forecaster.domain.errors import LeakageError
from forecaster.registry.store import Store
from forecaster.training import config as recipe
from forecaster.training import stages
from forecaster.training.config import TrainConfig
from forecaster.training.job import train
from tests.conftest import ROOT, small_config
from tests.training import faults_in_data as data
from tests.training import faults_in_recipes as fits
from tests.training.faults_in_recipes import Plant

ROWS = 420
ONE_ANSWER = {"model": {"cell": "simple_rnn", "widths": [4]}}
MEAN_STD = {"transforms": [{"kind": "mean_std"}]}

# what was done, how, in which recipe, and what is said of it
Fault = tuple[Plant, dict[str, Any], str]
FAULTS: dict[str, Fault] = {
    # the split and its windows
    "a shuffled split": (data.split_into(data.shuffled), {}, "the train part reaches"),
    "parts that overlap": (data.split_into(data.overlapping), {}, "the train part reaches"),
    "a validation part that is the test part": (
        data.split_into(fits.with_validation("test")), {}, "the validation part reaches"
    ),
    "a misaligned horizon, at each step": (data.targets_at_each_step_are_misaligned, {}, "the targets of a window"),
    "a misaligned horizon": (data.targets_begin_too_early, ONE_ANSWER, "the targets of a window"),
    "one misaligned window among many": (data.one_window_is_misaligned, ONE_ANSWER, "the targets of a window"),
    "inputs that reach over the cutoff": (data.inputs_reach_over_the_cutoff, {}, "the inputs 'y' of a window"),
    # columns
    "a covariate a row ahead": (data.prepare_as(data.covariate_a_row_ahead), {}, "the inputs 'wind' of a window"),
    "a target smoothed with the future": (
        data.target_is_smoothed_with_the_future, {}, "the inputs 'y' of a window"
    ),
    "futr_exog scaled over all rows": (
        data.prepare_as(data.futr_exog_scaled_over_all_rows), {}, "what is known ahead 'sun'"
    ),
    "rows until the series ends": (data.rows_until_the_end, {}, "a calendar feature depends on more"),
    "a memoised prepare": (data.prepare_is_memoised, {}, "is not made from the data that are given"),
    # transforms
    "a scaler fitted on all data": (data.scaler_sees_all, {}, "after the train part changes what is fitted"),
    "a scale of hist_exog fitted on all data": (data.scale_of("hist"), {}, "changes what is fitted"),
    "a scale of futr_exog fitted on all data": (data.scale_of("known"), {}, "changes what is fitted"),
    "a window's mean that sees the future": (
        data.window_mean_sees_the_future, MEAN_STD, "a step's answer changes"
    ),
    "statistics across the batch": (
        data.statistics_across_the_batch, ONE_ANSWER | MEAN_STD, "transformed otherwise among other windows"
    ),
    # the fit
    "weights that were fitted before": (fits.weights_are_fitted_before, ONE_ANSWER, "its initializers' weights"),
    "a recipe that starts from fitted weights": (
        fits.recipe_starts_warm, ONE_ANSWER, "from the configuration's seed"
    ),
    "a network fitted on train and validation": (
        fits.recipe_on(fits.with_train("validation")), ONE_ANSWER, "from the configuration's seed"
    ),
    "the best of three seeds by test error": (
        fits.chosen_by_test(fits.seeds), ONE_ANSWER, "a network of another configuration|configuration's seed"
    ),
    "the better cell by test error": (
        fits.chosen_by_test(fits.cells), ONE_ANSWER, "a network of another configuration|configuration's seed"
    ),
    # stopping
    "early stopping on test": (
        fits.recipe_on(fits.with_validation("test")), ONE_ANSWER, "stopped or chosen on other windows"
    ),
    "early stopping on calibration": (
        fits.recipe_on(fits.with_validation("calibration")), ONE_ANSWER, "stopped or chosen on other windows"
    ),
    "an epoch chosen by test": (fits.epoch_is_chosen_by_test, ONE_ANSWER, "chosen on other windows"),
    # calibration
    "calibration on test": (
        fits.calibrated_on(lambda parts: parts["test"]), ONE_ANSWER, "the test part changes the calibration"
    ),
    "calibration on train": (
        fits.calibrated_on(lambda parts: parts["train"]), ONE_ANSWER, "the calibration of the intervals stayed"
    ),
    "residuals of windows that were fitted on": (
        fits.residuals_of_what_was_fitted_on, ONE_ANSWER, "windows that the network was fitted on"
    ),
    # metrics
    "metrics of the wrong part": (
        fits.measured_on(lambda parts: parts | {"test": parts["validation"]}), ONE_ANSWER, "the metric mae is"
    ),
}  # fmt: skip

# of other kinds: written when the audit was done, to count how many it finds
OTHERS: dict[str, Fault] = {
    "test windows that were chosen": (data.split_into(data.without_last), {}, "the last rows of series"),
    "a series in test under another name": (
        lambda patch: None,
        {"split": {"by": "series"}, "data": {"source": "files", "path": "twins.csv"}},
        "has the values of 'a' of the train part",
    ),
    "a learning rate chosen by test": (
        fits.chosen_by_test(fits.learning_rates), ONE_ANSWER, "another configuration|configuration's seed"
    ),
    "a seed that depends on test": (
        fits.fit_depends_on_test, ONE_ANSWER, "another configuration|configuration's seed"
    ),
    "windows that are told of the next in their batch": (
        data.order_within_the_batch, ONE_ANSWER, "among other windows"
    ),
    "a memoised recipe": (fits.recipe_is_memoised, ONE_ANSWER, "stayed the same"),
    "coverage of intervals that test has sized": (
        fits.bands_are_calibrated_on_test, ONE_ANSWER, "the metric coverage-"
    ),
    "metrics without the worst errors": (fits.worst_are_left_out, ONE_ANSWER, "the metric mae is"),
}  # fmt: skip

# that no audit of this kind sees: each is named in docs/evaluation.md
UNSEEN: dict[str, Plant] = {
    "residuals of train windows among those of calibration": fits.calibrated_on(
        lambda parts: fits.joined(parts["calibration"], parts["train"])
    ),
    "a recipe that leaks on many windows only": fits.leaks_on_many_windows,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, and one MLflow store for all trainings, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("planted")
    random = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=ROWS, freq="h")
    y = np.sin(np.arange(ROWS) / 4) + random.normal(0, 0.1, ROWS) + 3
    frame = pd.DataFrame({"ds": times, "y": y, "wind": random.normal(size=ROWS), "sun": random.normal(size=ROWS)})
    frame.to_csv(folder / "one.csv", index=False)
    several = [frame.assign(unique_id=name, y=y + random.normal(0, 0.1, ROWS))[:60] for name in "abcdefghij"]
    several[-1] = several[0].assign(unique_id="j")
    pd.concat(several).to_csv(folder / "twins.csv", index=False)
    return folder


def recipe_of(place: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": {"source": "files", "path": "one.csv"},
        "input_size": 12,
        "hist_exog": ["wind"],
        "futr_exog": ["sun"],
        "calendar_features": ["hour_of_day"],
        "fit": {"epochs": 2, "batch_size": 32, "learning_rate": 0.02},
        "model": {"cell": "gru", "widths": [4], "topology": "many_to_many"},
        "refit": False,
    } | changes
    settings["data"] = settings["data"] | {"path": str(place / settings["data"]["path"])}
    return small_config(place, **settings)


def train_with(plant: Plant, config: TrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        # the job has its own names of what it imported
        for module, name in ((recipe, "prepare"), (recipe, "split"), (stages, "evaluate")):
            patch.setattr(f"forecaster.training.job.{name}", getattr(module, name))
        train(config)


@pytest.mark.parametrize("name", [*FAULTS, *OTHERS])
def test_each_planted_leak_is_found_and_nothing_is_registered(place: Path, name: str) -> None:
    plant, changes, said = (FAULTS | OTHERS)[name]
    # of its own name, so that it does not go on from the checkpoints of another
    config = recipe_of(place, name=name.translate(str.maketrans(" ,'", "---")), **changes)
    with pytest.raises(LeakageError, match=said):
        train_with(plant, config)
    assert config.name not in Store(config.tracking.uri).names()
    client = mlflow.MlflowClient(config.tracking.uri)
    run, *_ = client.search_runs([client.get_experiment_by_name("forecaster").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("LeakageError: ")


@pytest.mark.parametrize("name", UNSEEN)
def test_what_an_audit_cannot_see_is_named_in_the_docs(place: Path, name: str) -> None:
    train_with(UNSEEN[name], recipe_of(place, **ONE_ANSWER, name=name.replace(" ", "-")))
    assert f"- {name}" in (ROOT / "docs" / "evaluation.md").read_text()


def test_a_fit_that_leaks_is_not_gone_on_with(place: Path) -> None:
    config = recipe_of(place, **ONE_ANSWER, name="mended")
    with pytest.raises(LeakageError):
        train_with(fits.recipe_on(fits.with_validation("test")), config)
    # the same command, once its code is mended
    assert train(config).version == 1


def test_there_are_as_many_faults_as_the_docs_say() -> None:
    assert len(FAULTS) == 29
    assert len(OTHERS) + len(UNSEEN) == 10
