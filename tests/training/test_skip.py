"""The ridge regression beside a network: each fit solves it on its own windows, and no epoch changes it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.windows import Windows, split_windows
from forecaster.domain.config import load_config
from forecaster.domain.errors import ConfigError
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.domain.series import Floats
from forecaster.models.trained import TrainedNetwork
from forecaster.training import stages
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.export import write_bundle
from tests.conftest import ROOT, small_config
from tests.models.combinations import manifest_fields


def recipe(folder: Path, **fit: Any) -> tuple[TrainConfig, dict[str, Windows]]:
    folder.mkdir(exist_ok=True)
    config = small_config(
        folder,
        data={"source": "random_walk", "length": 300, "seed": 3},
        input_size=8,
        transforms=[{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        model={"cell": "simple_rnn", "encoder": {"widths": [4], "dropout": 0.2}, "skip": "ridge"},
        fit={"epochs": 2, "batch_size": 32, "learning_rate": 0.02} | fit,
    )
    series = prepare(config, config.data.load())
    return config, split_windows(series, config.split, config.input_size, config.horizon)


def regression(trained: TrainedNetwork) -> tuple[Floats, Floats]:
    weights, intercept = trained.model.get_layer("skip").get_weights()
    return weights, intercept


def solution(trained: TrainedNetwork, windows: Windows) -> tuple[Floats, Floats]:
    """Return the ridge regression of all these windows at once, centred, which frees the intercept."""
    target = trained.preprocessing.target
    x, contexts = target.forward(windows.inputs().target)
    y = target.targets(windows.targets(), contexts)
    centred, penalty = x - x.mean(axis=0), 1e-3 * (x**2).mean() * len(x)
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ y)
    return weights, y.mean(axis=0) - x.mean(axis=0) @ weights


def test_each_fit_solves_the_regression_on_its_own_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # chunks of 64 windows
    monkeypatch.setattr("forecaster.training.examples.CHUNK_VALUES", 8 * 64)
    config, parts = recipe(tmp_path)
    trained, _, calibration = stages.fit_recipe(config, parts, tmp_path)
    sample = parts["train"].inputs(np.arange(20))
    calibrations = {"model": calibration, "naive": calibration}
    write_bundle(trained, calibrations, manifest_fields("sine", trained), sample, tmp_path / "bundle")
    # a warm start, on the windows of another part
    warm = stages.refit(config, parts["test"], 1, tmp_path, weights=tmp_path / "bundle" / KERAS_MODEL)
    for fitted, windows in ((trained, parts["train"]), (warm, parts["test"])):
        for found, expected in zip(regression(fitted), solution(fitted, windows), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(regression(trained)[0] - regression(warm)[0]).max() > 0.01


def test_network_begins_close_to_the_regression(tmp_path: Path) -> None:
    config, parts = recipe(tmp_path, learning_rate=1e-9, epochs=1)
    trained, *_ = stages.fit_recipe(config, parts, tmp_path)
    target, windows = trained.preprocessing.target, parts["test"]
    x, contexts = target.forward(windows.inputs().target)
    weights, intercept = regression(trained)
    linear = target.inverse(x @ weights + intercept, target.last_contexts(contexts))
    errors = np.abs(windows.targets() - linear).mean()
    assert np.abs(trained.forecast(windows).mean - linear).mean() < 0.2 * errors


def test_interrupted_fit_keeps_its_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, parts = recipe(tmp_path / "whole")
    whole, *_ = stages.fit_recipe(config, parts, tmp_path / "whole")

    def kill(phase: str, epoch: int, *losses: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    config, parts = recipe(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        stages.fit_recipe(config, parts, tmp_path / "killed", kill)
    resumed, *_ = stages.fit_recipe(config, parts, tmp_path / "killed")
    for weight, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_shipped_recipe_reads_a_wide_file_beside_its_regression(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1400, 2))
    frame = pd.DataFrame(rows, columns=["HUFL", "OT"])
    frame.insert(0, "date", pd.date_range("2016-07-01", periods=len(rows), freq="h"))
    frame.to_csv(tmp_path / "wide.csv", index=False)
    file = ROOT / "pipelines" / "configs" / "etth1.yaml"
    config = load_config(file, TrainConfig, [f"data.path={tmp_path / 'wide.csv'}"], "train")
    assert config.model.skip == "ridge"
    series = prepare(config, config.data.load(config.exogenous))
    assert series.unique_ids == ("HUFL", "OT")
    parts = split_windows(series, config.split, config.input_size, config.horizon)
    assert [len(windows.first) for windows in parts.values()] == [2, 2, 2, 2]


def test_regression_of_too_many_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input_size and skip: ridge: .*set input_size to at most 4096"):
        small_config(tmp_path, input_size=4097, model={"skip": "ridge"})
