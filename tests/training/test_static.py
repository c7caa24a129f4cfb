"""Static columns in a training: unknown series and categories, resumed fits, and the leakage audit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.windows import Windows, cut_windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Inputs, Series
from forecaster.models.trained import TrainedNetwork
from forecaster.training import config as recipe
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.examples import Examples
from forecaster.training.leakage.forecasts import check_forecasts
from forecaster.training.leakage.perturbation import exchange_static
from forecaster.training.leakage.windows import check_series, check_windows
from forecaster.training.stages import fit_preprocessing, refit
from tests.shops import shop_recipe

BY_SERIES = {"by": "series", "train": 0.4, "validation": 0.2, "calibration": 0.2, "test": 0.2}


def windows(config: TrainConfig) -> Windows:
    return cut_windows(prepare(config, config.load()), config.input_size, config.horizon)


def tables(trained: TrainedNetwork) -> list[np.ndarray]:
    """Return the embeddings of the series and of the format."""
    return [trained.model.get_layer(f"embedding_{number}").get_weights()[0] for number in (0, 1)]


def test_unknown_names_are_learned_and_a_resumed_fit_learns_the_same(tmp_path: Path) -> None:
    config = shop_recipe(tmp_path)
    seen = windows(config)
    for folder in ("whole", "resumed"):
        (tmp_path / folder).mkdir()
    whole = refit(config, seen, 2, tmp_path / "whole")

    def stop(phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
        if epoch == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        refit(config, seen, 2, tmp_path / "resumed", stop)
    resumed = refit(config, seen, 2, tmp_path / "resumed")
    for first, second in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    untrained = config.build_network(whole.shape)
    for number, table in enumerate(tables(whole)):
        (initial,) = untrained.get_layer(f"embedding_{number}").get_weights()
        assert (table[0] != initial[0]).all()


def test_series_and_categories_outside_of_the_train_part_are_unknown(tmp_path: Path) -> None:
    config = shop_recipe(tmp_path, split=BY_SERIES)
    # the train part holds the shops a and b; d is a hall like b, and e a kiosk like a
    parts = split(config, prepare(config, config.load()))
    preprocessing = fit_preprocessing(config, parts["train"])
    assert preprocessing.unseen == ((3, 4, 5), ())
    codes = {
        name: {tuple(row) for row in preprocessing.forward(parts[name].inputs().feeds)[0]["codes"].tolist()}
        for name in ("train", "calibration", "test")
    }
    assert codes == {"train": {(1, 2), (2, 1)}, "calibration": {(0, 1)}, "test": {(0, 2)}}
    trained = refit(config, parts["train"], 1, tmp_path)
    inputs = parts["test"].inputs(np.arange(5))
    np.testing.assert_allclose(trained.run(inputs.feeds).mean, trained.predict(inputs).mean, rtol=1e-4)
    as_unknown = replace(inputs, static=inputs.static * np.array([1, 0, 1]))
    np.testing.assert_array_equal(trained.run(inputs.feeds).mean, trained.run(as_unknown.feeds).mean)


def of_another_series(series: Series) -> Series:
    assert series.static is not None
    return replace(series, static=np.roll(series.static, 1, axis=0))


def area_of_another_series(series: Series) -> Series:
    assert series.static is not None
    static = series.static.copy()
    static[:, 0] = np.roll(static[:, 0], 1)
    return replace(series, static=static)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_series, "series 'a' has the embedding of another series"),
        (area_of_another_series, "the stat_exog 'area' of series 'a' belongs to another series"),
    ],
)
def test_audit_compares_static_columns_with_the_data(
    tmp_path: Path, change: Callable[[Series], Series], message: str
) -> None:
    config = shop_recipe(tmp_path)
    frame = config.load()
    series = prepare(config, frame)
    check_series(config, frame, series)
    with pytest.raises(LeakageError, match=message):
        check_series(config, frame, change(series))


def test_audit_finds_windows_with_the_static_columns_of_another_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shop_recipe(tmp_path)
    series = prepare(config, config.load())
    found = cut_windows(series, config.input_size, config.horizon)
    check_windows(config, series, found, "train")
    honest = Windows.inputs

    def inputs(self: Windows, index: Any = None) -> Inputs:
        taken = honest(self, index)
        assert taken.static is not None
        return replace(taken, static=np.roll(taken.static, 1, axis=0))

    monkeypatch.setattr(Windows, "inputs", inputs)
    with pytest.raises(LeakageError, match="train part: the stat_exog of a window belong to another series"):
        check_windows(config, series, found, "train")


def test_audit_finds_forecasts_that_depend_on_other_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shop_recipe(tmp_path)
    frame = config.load()
    honest = recipe.prepare

    def scaled(*arguments: Any) -> Series:
        series = honest(*arguments)
        assert series.static is not None
        # the area relative to that of the largest shop
        return replace(series, static=series.static / np.array([series.static[:, 0].max(), 1, 1]))

    monkeypatch.setattr(recipe, "prepare", scaled)
    series = scaled(config, frame)
    served = refit(config, cut_windows(series, config.input_size, config.horizon), 1, tmp_path)
    with pytest.raises(LeakageError, match="with other series; a column or a window looks ahead"):
        check_forecasts(config, frame, series, served)


def test_exchange_keeps_the_static_columns_of_a_series(tmp_path: Path) -> None:
    config = shop_recipe(tmp_path)
    frame = config.load()
    exchanged = exchange_static(config, frame, "c")
    own = (frame["unique_id"] == "c").to_numpy()
    assert exchanged[own].equals(frame[own])
    assert (exchanged["area"] != frame["area"])[~own].all()
    assert exchanged.groupby("unique_id")["area"].nunique().eq(1).all()


def test_a_tenth_of_the_positions_is_hidden_in_training(tmp_path: Path) -> None:
    config = shop_recipe(tmp_path)
    seen = windows(config)
    examples = Examples(seen, fit_preprocessing(config, seen), config.model)
    every = np.arange(len(seen))
    hidden, shown = (examples.take(every, random)[0][-1] for random in (np.random.default_rng(0), None))
    assert (shown > 0).all()
    assert ((hidden == 0) | (hidden == shown)).all()
    assert 0.07 < (hidden == 0).mean() < 0.13
