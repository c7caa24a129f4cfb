"""A recipe that picks itself: plain, chosen on train and validation rows, kept, and no worse than what is simple."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError
from forecaster.domain.series import Floats, Y
from forecaster.evaluation.baselines import last_value, seasonal_naive
from forecaster.search.config import SearchConfig
from forecaster.search.search import search
from forecaster.training import job, stages
from forecaster.training.auto import Choice, choose, choose_recipe, closed_forms
from forecaster.training.auto.candidates import CLOSED_FORMS
from forecaster.training.auto.traits import describe
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.dataset import Dataset, load_dataset
from forecaster.training.job import train
from forecaster.training.warm_start import WarmStart
from tests.conftest import small_config


def auto_config(folder: Path, **changes: Any) -> TrainConfig:
    """Return an open recipe on 500 hours, whose networks are fitted for an epoch."""
    folder.mkdir(exist_ok=True)
    # `small_config` sets transforms and the fit
    raw = small_config(folder, data={"source": "sine", "length": 500, "seed": 3, "sines": [{"period": 12}]}).model_dump(
        mode="json", exclude={"transforms", "model", "fit"}
    )
    raw |= {"model": "auto", "fit": {"epochs": 1, "minutes": 5}}
    return build_config(raw | changes, TrainConfig, "test")


def with_values(config: TrainConfig, y: Floats) -> Dataset:
    """Return a dataset with other values."""
    frame = config.load().assign(**{Y: y})
    return Dataset(frame, prepare(config, frame), "")


def chosen(config: TrainConfig, dataset: Dataset, folder: Path) -> Choice:
    folder.mkdir(parents=True, exist_ok=True)
    return choose_recipe(config, dataset, folder)


def errors(choice: Choice) -> list[float | None]:
    return [trial.mae for trial in choice.trials]


def mae_on_test(config: TrainConfig, dataset: Dataset, folder: Path) -> float:
    return stages.evaluate(config, split(config, dataset.series), folder).metrics["mae"]


def test_training_registers_a_plain_recipe_with_its_reasons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = auto_config(tmp_path)
    with caplog.at_level(logging.INFO, "forecaster.training"):
        registered = train(config)
    run = mlflow.MlflowClient(config.tracking.uri).get_run(registered.run_id)
    read = Path(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/config.yaml")).read_text()
    recipe = TrainConfig.model_validate(yaml.safe_load(read))
    assert not recipe.is_open
    assert recipe.fit.minutes is None
    assert run.data.tags["choice"] == "ridge around the window's mean"
    assert run.data.tags["choice/reason"].startswith("the series returns to its level, linearly in the window")
    assert "perhaps a season of 12 rows" in run.data.tags["choice/data"]
    table = json.loads(Path(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/choice.json")).read_text())
    names = [row[0] for row in table["data"]]
    assert names[:3] == ["last value", "window mean", "seasonal naive"]
    assert "GRU" in names
    for name in names:
        assert f"model: auto: {name}: MAE" in caplog.text
    assert "model: auto: chose ridge around the window's mean: the series returns to its level" in caplog.text
    # the recipe can be copied: it gives the same network
    assert train(recipe).metrics == registered.metrics


def test_rows_after_the_validation_part_do_not_change_the_choice(tmp_path: Path) -> None:
    config = auto_config(tmp_path)
    y = config.load()[Y].to_numpy()
    random = np.random.default_rng(0)
    first = chosen(config, with_values(config, y), tmp_path / "first")
    # 70 % of 500 rows are the train and the validation part
    later = np.concatenate([y[:350], random.normal(5, 50, 150)])
    second = chosen(config, with_values(config, later), tmp_path / "later")
    assert (second.config, second.reason, errors(second)) == (first.config, first.reason, errors(first))
    validation = np.concatenate([y[:300], y[300:350] + random.normal(0, 1, 50), y[350:]])
    third = chosen(config, with_values(config, validation), tmp_path / "validation")
    assert all(error != before for error, before in zip(errors(third), errors(first), strict=True))


def test_choice_is_kept_when_the_training_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = auto_config(tmp_path)

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job, "evaluate", kill)
        train(config)
    (file,) = tmp_path.glob("checkpoints/*/choice.json")
    kept = json.loads(file.read_text())
    # another choice would find no candidate
    monkeypatch.setattr(choose, "CLOSED_FORMS", ())
    monkeypatch.setattr(choose, "NETWORKS", ())
    registered = train(config)
    run = mlflow.MlflowClient(config.tracking.uri).get_run(registered.run_id)
    assert (run.data.tags["choice"], run.data.tags["choice/reason"]) == (kept["name"], kept["reason"])
    assert not list(tmp_path.glob("checkpoints/*"))


def test_choice_that_was_killed_continues_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = auto_config(tmp_path, fit={"epochs": 3, "batch_size": 64})
    dataset = load_dataset(config)
    whole = chosen(config, dataset, tmp_path / "whole")
    epochs: list[int] = []

    def kill(race: Any, phase: str, epoch: int, *losses: Any) -> None:
        epochs.append(epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(choose._Race, "_check_time", kill)
        chosen(config, dataset, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(choose._Race, "_check_time", lambda race, phase, epoch, *losses: epochs.append(epoch))
        resumed = chosen(config, dataset, tmp_path / "killed")
    assert epochs == [0, 1, 1, 2]
    assert resumed.config == whole.config
    assert errors(resumed) == errors(whole)


def test_no_candidate_starts_after_the_time_is_used_up(tmp_path: Path) -> None:
    config = auto_config(tmp_path, fit={"minutes": 1e-9})
    choice = chosen(config, load_dataset(config), tmp_path / "choice")
    assert [trial.name for trial in choice.trials if trial.mae is not None] == ["last value"] == [choice.name]
    assert {trial.outcome for trial in choice.trials[1:]} == {"not tried: fit.minutes are used up"}


def test_fit_is_stopped_when_the_time_is_used_up(tmp_path: Path) -> None:
    config = auto_config(tmp_path, fit={"epochs": 100_000, "patience": 100_000, "minutes": 0.08})
    begin = time.monotonic()
    choice = chosen(config, load_dataset(config), tmp_path / "choice")
    # an epoch, and the time to build the network
    assert time.monotonic() - begin < 60
    assert "stopped after" in choice.trials[-1].outcome
    assert choice.config.fit.epochs == 0


def test_random_walks_are_forecast_no_worse_than_by_their_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # which take too long for ten series
    monkeypatch.setattr(choose, "NETWORKS", ())
    config, ratios = auto_config(tmp_path), []
    for seed in range(10):
        dataset = with_values(config, 100 + np.cumsum(np.random.default_rng(seed).normal(size=500)))
        recipe = chosen(config, dataset, tmp_path / str(seed)).config
        parts = split(config, dataset.series)
        (forecast,) = closed_forms.forecast(recipe, [recipe.model.skip_penalty], parts["train"], parts["test"])
        actual, naive = parts["test"].targets(), last_value(parts["test"].inputs().target, config.horizon)
        ratios.append(np.abs(actual - forecast).mean() / np.abs(actual - naive).mean())
    # a drift of the past may end, so that one walk is forecast worse
    assert np.mean(ratios) <= 1.02
    assert np.median(ratios) == 1


def test_series_of_a_season_is_forecast_no_worse_than_by_its_last_season(tmp_path: Path) -> None:
    config, random = auto_config(tmp_path), np.random.default_rng(0)
    dataset = with_values(config, random.normal(size=12)[np.arange(500) % 12] + random.normal(0, 0.2, 500))
    choice = chosen(config, dataset, tmp_path / "choice")
    test = split(config, dataset.series)["test"]
    naive = np.abs(test.targets() - seasonal_naive(test.inputs().target, config.horizon, 12)).mean()
    assert mae_on_test(choice.config, dataset, tmp_path) <= 1.02 * naive


@pytest.mark.parametrize("name", ["last value", "seasonal naive", "ridge around the window's mean"])
def test_closed_form_is_computed_as_its_network_forecasts(tmp_path: Path, name: str) -> None:
    data = {"source": "sine", "length": 500, "level": 1.5, "sines": [{"period": 12}]}
    model = {"kind": "auto", "skip_penalty": 0.5}
    config = auto_config(tmp_path, support={"at_least": 0}, data=data, model=model)
    dataset = load_dataset(config)
    parts = split(config, dataset.series)
    traits = describe(config, dataset.series, parts["train"])
    (candidate,) = (candidate for candidate in CLOSED_FORMS if candidate.name == name)
    recipe = choose.resolve(config, candidate.settings(traits) | {"fit": {"epochs": 0}})
    (found,) = closed_forms.forecast(recipe, [recipe.model.skip_penalty], parts["train"], parts["test"])
    trained, history = stages.fit_network(recipe, parts, tmp_path)
    np.testing.assert_allclose(found, trained.forecast(parts["test"]).mean, atol=1e-5)
    assert history.epochs == 0


def test_what_is_set_is_kept(tmp_path: Path) -> None:
    transforms = [{"kind": "mean_std"}]
    model = {"kind": "auto", "cell": "lstm", "head": "quantile"}
    config = auto_config(tmp_path, transforms=transforms, model=model)
    # in JSON too, as a fleet sends it
    again = TrainConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert (again.model.model_fields_set, again.fit.model_fields_set) == (
        {"kind", "cell", "head"},
        {"epochs", "minutes"},
    )
    assert "transforms" not in TrainConfig.model_validate_json(auto_config(tmp_path).model_dump_json()).model_fields_set
    choice = chosen(again, load_dataset(again), tmp_path / "choice")
    assert (choice.config.model.cell, choice.config.model.head.kind) == ("lstm", "quantile")
    assert choice.config.model_dump()["transforms"] == config.model_dump()["transforms"]
    assert choice.config.fit.epochs == 1
    outcomes = {trial.name: trial.outcome for trial in choice.trials}
    assert "fit.epochs: 0 and head: without an epoch nothing learns the spread" in outcomes["last value"]


def test_missing_values_leave_out_what_needs_all_values(tmp_path: Path) -> None:
    config = auto_config(tmp_path, missing="mask")
    y = config.load()[Y].to_numpy().copy()
    y[np.random.default_rng(0).random(500) < 0.1] = np.nan
    choice = chosen(config, with_values(config, y), tmp_path / "choice")
    assert {"last value", "window mean", "GRU"} <= {trial.name for trial in choice.trials if trial.mae is not None}
    assert choice.config.model.skip == "none"


def test_several_series_may_have_vectors_of_their_own(tmp_path: Path) -> None:
    config = auto_config(tmp_path, data={"source": "sine", "length": 400, "n_series": 3, "sines": [{"period": 12}]})
    choice = chosen(config, load_dataset(config), tmp_path / "choice")
    (trial,) = (trial for trial in choice.trials if trial.name == "GRU with a vector for each series")
    assert trial.mae is not None


def test_what_nothing_suits_is_refused_with_the_reasons(tmp_path: Path) -> None:
    config = auto_config(tmp_path, fit={"stateful": {"chunk": 4, "backprop_steps": 2}})
    with pytest.raises(ConfigError, match=r"model: auto: no recipe suits what is set \(last value: .*fit.stateful"):
        chosen(config, load_dataset(config), tmp_path / "choice")


def test_adjusted_prices_are_only_tried_with_transforms_that_cancel_the_adjustment(tmp_path: Path) -> None:
    frame = auto_config(tmp_path, data={"source": "random_walk", "length": 500}).load()
    frame.rename(columns={"y": "Adj Close"}).to_csv(tmp_path / "prices.csv", index=False)
    columns = {"ds": "ds", "y": "Adj Close"}
    data = {"source": "files", "path": str(tmp_path / "prices.csv"), "columns": columns}
    config = auto_config(tmp_path, data=data)
    outcomes = {t.name: t for t in chosen(config, load_dataset(config), tmp_path / "choice").trials}
    assert "are adjusted" in outcomes["ridge"].outcome
    assert outcomes["ridge of logarithms"].mae is not None


def test_only_a_training_chooses(tmp_path: Path) -> None:
    config = auto_config(tmp_path)
    with pytest.raises(ConfigError, match="model: auto is chosen by a training"):
        search(config, build_config({"space": {"model.cell": ["gru", "lstm"]}}, SearchConfig, "test"))
    with pytest.raises(ConfigError, match="model: auto is chosen by a training"):
        config.build_network()
    with pytest.raises(ConfigError, match="warm_epochs and model: auto"):
        train(config, WarmStart(tmp_path / "model.keras", 1, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "best"}, "model: must be auto, or a mapping with the parts of a network"),
        ({"model": {"kind": "auto", "cel": "gru"}}, "model.cel: unknown key"),
        ({"model": {"cell": "gru"}}, "fit.minutes: is the time for choosing a recipe; set model: auto"),
        (
            {"transforms": [{"kind": "last_season", "season": 24}]},
            "last_season needs more than the 24 rows of a season",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        auto_config(tmp_path, **changes)
    assert message in str(error.value)


def test_a_warmup_that_is_set_does_not_rule_out_closed_forms(tmp_path: Path) -> None:
    fit = {"epochs": 4, "schedule": {"kind": "cosine", "warmup_epochs": 2}}
    settings = {"model": {"skip": "ridge"}, "fit": {"epochs": 0}, "transforms": [{"kind": "last_value"}]}
    assert choose.resolve(auto_config(tmp_path, fit=fit), settings).fit.epochs == 0


def test_advice_is_more_time_if_it_was_used_up_before_a_network_was_fitted(tmp_path: Path) -> None:
    config = auto_config(tmp_path, model={"kind": "auto", "head": "student_t"}, fit={"epochs": 1, "minutes": 1e-6})
    with pytest.raises(ConfigError, match=r"fit\.minutes are used up.*; raise fit\.minutes"):
        chosen(config, load_dataset(config), tmp_path / "choice")


def test_series_that_is_forecast_perfectly_is_certified(tmp_path: Path) -> None:
    rows = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2024-01-01", periods=300, freq="h"), "y": 5.0})
    rows.to_csv(tmp_path / "constant.csv", index=False)
    data = {"source": "files", "path": str(tmp_path / "constant.csv")}
    trained = train(auto_config(tmp_path, data=data))
    assert trained.metrics["relative_mae"] == 1
