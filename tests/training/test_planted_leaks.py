"""The audit finds each planted leak and keeps its version out of the registry; the docs name the leaks it misses."""

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
MANY_TO_ONE = {"model": {"cell": "simple_rnn", "widths": [4]}}
WITH_RIDGE = {"model": {"cell": "simple_rnn", "widths": [4], "skip": "ridge"}}
STATEFUL = {"fit": {"epochs": 2, "batch_size": 32, "stateful": {"chunk": 8, "backprop_steps": 4}}}
MEAN_STD = {"transforms": [{"kind": "mean_std"}]}

# the plant, changes of the recipe, and the error's message
Fault = tuple[Plant, dict[str, Any], str]
FAULTS: dict[str, Fault] = {
    # the split and its windows
    "a shuffled split": (data.split_into(data.shuffled), {}, "the train part reaches"),
    "parts that overlap": (data.split_into(data.overlapping), {}, "the train part reaches"),
    "a validation part that is the test part": (
        data.split_into(fits.with_validation("test")), {}, "the validation part reaches"
    ),
    "a misaligned horizon, at each step": (data.targets_at_each_step_are_misaligned, {}, "the targets of a window"),
    "a misaligned horizon": (data.targets_begin_too_early, MANY_TO_ONE, "the targets of a window"),
    "one misaligned window among many": (data.one_window_is_misaligned, MANY_TO_ONE, "the targets of a window"),
    "inputs that reach over the cutoff": (data.inputs_reach_over_the_cutoff, {}, "the inputs 'y' of a window"),
    # columns
    "a covariate a row ahead": (data.prepare_as(data.covariate_a_row_ahead), {}, "the inputs 'wind' of a window"),
    "a target smoothed with the future": (
        data.target_is_smoothed_with_the_future, {}, "the inputs 'y' of a window"
    ),
    "futr_exog scaled over all rows": (
        data.prepare_as(data.futr_exog_scaled_over_all_rows), {}, "the values known ahead 'sun'"
    ),
    "rows until the series ends": (data.rows_until_the_end, {}, "a calendar feature depends on more"),
    "a memoised prepare": (data.prepare_is_memoised, {}, "made from the data, so the audit cannot see"),
    # transforms
    "a scaler fitted on all data": (data.scaler_sees_all_rows, {}, "after the train part changes what is fitted"),
    "a scale of hist_exog fitted on all data": (data.scale_of("hist"), {}, "changes what is fitted"),
    "a scale of futr_exog fitted on all data": (data.scale_of("known"), {}, "changes what is fitted"),
    "a window's mean that sees the future": (
        data.window_mean_sees_the_future, MEAN_STD, "a step's output changes"
    ),
    "statistics across the batch": (
        data.statistics_across_the_batch, MANY_TO_ONE | MEAN_STD, "transformed values change with the other windows"
    ),
    # the fit
    "weights that were fitted before": (fits.weights_are_fitted_before, MANY_TO_ONE, "its initializers' weights"),
    "a recipe that starts from fitted weights": (
        fits.recipe_starts_warm, MANY_TO_ONE, "from the configuration's seed"
    ),
    "a network fitted on train and validation": (
        fits.recipe_on(fits.with_train("validation")), MANY_TO_ONE, "from the configuration's seed"
    ),
    "the best of three seeds by test error": (
        fits.chosen_by_test(fits.seeds), MANY_TO_ONE, "a network of another configuration|configuration's seed"
    ),
    "the better cell by test error": (
        fits.chosen_by_test(fits.cells), MANY_TO_ONE, "a network of another configuration|configuration's seed"
    ),
    "a regression fitted on train and validation": (
        fits.regression_is_fitted_on_validation_too, WITH_RIDGE, "from the configuration's seed"
    ),
    "a regression that reads on over the border": (
        fits.regression_reads_on_over_the_border, WITH_RIDGE, "the validation part changes what is fitted on train"
    ),
    "streams that read on over the border": (
        fits.streams_read_on_over_the_border, STATEFUL, "the validation part changes what is fitted on train"
    ),
    # stopping
    "early stopping on test": (
        fits.recipe_on(fits.with_validation("test")), MANY_TO_ONE, "stopped or chosen on other windows"
    ),
    "early stopping on calibration": (
        fits.recipe_on(fits.with_validation("calibration")), MANY_TO_ONE, "stopped or chosen on other windows"
    ),
    "an epoch chosen by test": (fits.epoch_is_chosen_by_test, MANY_TO_ONE, "chosen on other windows"),
    # calibration
    "calibration on test": (
        fits.calibrated_on(lambda parts: parts["test"]), MANY_TO_ONE, "the test part changes the calibration"
    ),
    "calibration on train": (
        fits.calibrated_on(lambda parts: parts["train"]), MANY_TO_ONE, "the calibration of the intervals stayed"
    ),
    "residuals of windows that were fitted on": (
        fits.residuals_are_in_sample, MANY_TO_ONE, "windows that the network was fitted on"
    ),
    # metrics
    "metrics of the wrong part": (
        fits.metrics_of_validation, MANY_TO_ONE, "the metric mae is reported as"
    ),
}  # fmt: skip

# other kinds of leaks: written after the audit, to measure how many of them it finds
OTHERS: dict[str, Fault] = {
    "test windows that were chosen": (data.split_into(data.without_last), {}, "the last rows of series"),
    "a series in test under another name": (
        lambda patch: None,
        {"split": {"by": "series"}, "data": {"source": "files", "path": "twins.csv"}},
        "has the values of 'a' of the train part",
    ),
    "a learning rate chosen by test": (
        fits.chosen_by_test(fits.learning_rates), MANY_TO_ONE, "another configuration|configuration's seed"
    ),
    "a seed that depends on test": (
        fits.fit_depends_on_test, MANY_TO_ONE, "another configuration|configuration's seed"
    ),
    "windows that see the next window of their batch": (
        data.order_within_the_batch, MANY_TO_ONE, "transformed values change with the other windows"
    ),
    "a memoised recipe": (fits.recipe_is_memoised, MANY_TO_ONE, "stayed the same"),
    "coverage of intervals that test has sized": (
        fits.bands_are_calibrated_on_test, MANY_TO_ONE, "the metric coverage-"
    ),
    "metrics without the worst errors": (fits.largest_errors_are_left_out, MANY_TO_ONE, "the metric mae is"),
}  # fmt: skip

# leaks that the audit misses; docs/evaluation.md names each
UNSEEN: dict[str, Plant] = {
    "residuals of train windows among those of calibration": fits.calibrated_on(
        lambda parts: fits.join(parts["calibration"], parts["train"])
    ),
    "a recipe that leaks on many windows only": fits.leaks_on_many_windows,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, and an MLflow store that all trainings share, since creating one takes seconds."""
    folder = tmp_path_factory.mktemp("planted")
    random = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=ROWS, freq="h")
    y = np.sin(np.arange(ROWS) / 4) + random.normal(0, 0.1, ROWS) + 3
    frame = pd.DataFrame({"ds": times, "y": y, "wind": random.normal(size=ROWS), "sun": random.normal(size=ROWS)})
    frame.to_csv(folder / "one.csv", index=False)
    series = [frame.assign(unique_id=name, y=y + random.normal(0, 0.1, ROWS))[:60] for name in "abcdefghij"]
    series[-1] = series[0].assign(unique_id="j")
    pd.concat(series).to_csv(folder / "twins.csv", index=False)
    return folder


def recipe_for(folder: Path, **changes: Any) -> TrainConfig:
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
    settings["data"] = settings["data"] | {"path": str(folder / settings["data"]["path"])}
    return small_config(folder, **settings)


def train_with(plant: Plant, config: TrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        # `dataset` and `job` imported these functions by name
        patch.setattr("forecaster.training.dataset.prepare", recipe.prepare)
        patch.setattr("forecaster.training.job.split", recipe.split)
        patch.setattr("forecaster.training.job.evaluate", stages.evaluate)
        train(config)


@pytest.mark.parametrize("name", [*FAULTS, *OTHERS])
def test_audit_finds_each_planted_leak_and_registers_nothing(folder: Path, name: str) -> None:
    plant, changes, message = (FAULTS | OTHERS)[name]
    # a name of its own, so that it does not continue from another fault's checkpoints
    config = recipe_for(folder, name=name.translate(str.maketrans(" ,'", "---")), **changes)
    with pytest.raises(LeakageError, match=message):
        train_with(plant, config)
    assert config.name not in Store(config.tracking.uri).names()
    client = mlflow.MlflowClient(config.tracking.uri)
    run, *_ = client.search_runs([client.get_experiment_by_name("forecaster").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("LeakageError: ")


@pytest.mark.parametrize("name", UNSEEN)
def test_docs_name_each_leak_that_the_audit_misses(folder: Path, name: str) -> None:
    train_with(UNSEEN[name], recipe_for(folder, **MANY_TO_ONE, name=name.replace(" ", "-")))
    assert f"- {name}" in (ROOT / "docs" / "evaluation.md").read_text()


def test_training_does_not_resume_from_a_leaking_fit(folder: Path) -> None:
    config = recipe_for(folder, **MANY_TO_ONE, name="fixed")
    with pytest.raises(LeakageError):
        train_with(fits.recipe_on(fits.with_validation("test")), config)
    # the same command, once its code is fixed
    assert train(config).version == 1


def test_number_of_faults_matches_the_docs() -> None:
    assert len(FAULTS) == 32
    assert len(OTHERS) + len(UNSEEN) == 10
