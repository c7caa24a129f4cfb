"""Planted leaks: each spoils one stage of a training, as a mistake in its code would."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data import calendar_features
from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import MeanStd, Standardize
from forecaster.data.windows import Windows
from forecaster.domain.series import Inputs, Series
from forecaster.evaluation.conformal import calibrate
from forecaster.training import recipe, stages
from forecaster.training.export import Trained
from forecaster.training.recipe import TrainConfig
from forecaster.training.stages import Evaluated

Parts = dict[str, Windows]
Plant = Callable[[pytest.MonkeyPatch], None]


def split_into(spoil: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that spoils what a series is split into."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = recipe.split
        patch.setattr(recipe, "split", lambda *arguments: spoil(honest(*arguments)))

    return plant


def prepare_as(spoil: Callable[[Series], Series]) -> Plant:
    """Return a plant that spoils the prepared series."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = recipe.prepare
        patch.setattr(recipe, "prepare", lambda config, frame: spoil(honest(config, frame)))

    return plant


def recipe_on(spoil: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that fits and calibrates on other parts than it measures on."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_recipe
        patch.setattr(
            stages, "fit_recipe", lambda config, parts, *more: honest(config, spoil(parts), *more)
        )  # fmt: skip

    return plant


def measured_on(spoil: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that measures on other parts than it says."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages._measure
        patch.setattr(stages, "_measure", lambda config, parts, *more: honest(config, spoil(parts), *more))

    return plant


def error_of(trained: Trained, windows: Windows) -> float:
    return float(np.abs(trained.forecast(windows) - windows.targets()).mean())


def chosen_by_test(variants: Callable[[TrainConfig], list[TrainConfig]]) -> Plant:
    """Return a plant that fits several recipes and keeps the one with the least error on the test part."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.evaluate

        def evaluate(config: TrainConfig, parts: Parts, checkpoints: Path, *more: Any) -> Evaluated:
            found = []
            for number, variant in enumerate(variants(config)):
                folder = checkpoints / str(number)
                folder.mkdir(exist_ok=True)
                found.append(honest(variant, parts, folder, *more))
            return min(found, key=lambda one: error_of(one.trained, parts["test"]))

        patch.setattr(stages, "evaluate", evaluate)

    return plant


def shuffled(parts: Parts) -> Parts:
    every = np.concatenate([windows.starts(np.arange(len(windows))) for windows in parts.values()])
    starts = np.array_split(np.random.default_rng(0).permutation(every), len(parts))
    return {
        name: replace(part, first=some, counts=np.ones_like(some), owners=np.zeros_like(some))
        for (name, part), some in zip(parts.items(), starts, strict=True)
    }


def overlapping(parts: Parts) -> Parts:
    # the last train window's targets reach into validation
    return parts | {"train": replace(parts["train"], counts=parts["train"].counts + 1)}


def without_last(parts: Parts) -> Parts:
    test = parts["test"]
    return parts | {"test": replace(test, counts=test.counts - 5)}


def joined(one: Windows, other: Windows) -> Windows:
    first, counts, owners = (
        np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("first", "counts", "owners")
    )
    return replace(one, first=first, counts=counts, owners=owners)


def targets_at_each_step_are_misaligned(patch: pytest.MonkeyPatch) -> None:
    honest = Windows.targets_each_step
    patch.setattr(Windows, "targets_each_step", lambda windows, index: np.roll(honest(windows, index), 1, axis=2))


def targets_begin_too_early(patch: pytest.MonkeyPatch) -> None:
    def early(windows: Windows, index: np.ndarray | None = None) -> np.ndarray:
        return np.concatenate([windows.inputs(index).values[:, -1:, 0], honest(windows, index)[:, :-1]], axis=1)

    honest = Windows.targets
    patch.setattr(Windows, "targets", early)


def one_window_is_misaligned(patch: pytest.MonkeyPatch) -> None:
    def targets(windows: Windows, index: np.ndarray | None = None) -> np.ndarray:
        found = honest(windows, index).copy()
        found[101:102] = found[101:102, ::-1]
        return found

    honest = Windows.targets
    patch.setattr(Windows, "targets", targets)


def inputs_reach_over_the_cutoff(patch: pytest.MonkeyPatch) -> None:
    honest = Windows.inputs
    patch.setattr(
        Windows,
        "inputs",
        lambda windows, index=None: honest(replace(windows, values=np.roll(windows.values, -1, axis=0)), index),
    )


def what_is_known_is_a_row_ahead(patch: pytest.MonkeyPatch) -> None:
    def inputs(windows: Windows, index: np.ndarray | None = None) -> Inputs:
        assert windows.known is not None
        return honest(replace(windows, known=np.roll(windows.known, -1, axis=0)), index)

    honest = Windows.inputs
    patch.setattr(Windows, "inputs", inputs)


def covariate_a_row_ahead(series: Series) -> Series:
    values = series.values.copy()
    values[:-1, 1] = values[1:, 1]
    return replace(series, values=values)


def futr_exog_scaled_over_all_rows(series: Series) -> Series:
    assert series.known is not None
    known = series.known.copy()
    known[:, 0] = (known[:, 0] - known[:, 0].mean()) / known[:, 0].std()
    return replace(series, known=known)


def target_is_smoothed_with_the_future(patch: pytest.MonkeyPatch) -> None:
    honest = recipe.prepare
    patch.setattr(
        recipe,
        "prepare",
        lambda config, frame: honest(
            config, frame.assign(y=frame["y"].rolling(3, center=True, min_periods=1).mean())
        ),
    )  # fmt: skip


def rows_until_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        calendar_features.FEATURES, "hour_of_day", lambda times, step: np.arange(len(times))[::-1] / len(times)
    )


def prepare_is_memoised(patch: pytest.MonkeyPatch) -> None:
    honest, kept = recipe.prepare, []

    def prepare(config: TrainConfig, frame: pd.DataFrame) -> Series:
        kept.append(honest(config, frame))
        return kept[0]

    patch.setattr(recipe, "prepare", prepare)


def recipe_is_memoised(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe
    kept: dict[int, Any] = {}

    def fit_recipe(config: TrainConfig, *more: Any) -> Any:
        key = config.fit.batch_size
        return kept[key] if key in kept else kept.setdefault(key, honest(config, *more))

    patch.setattr(stages, "fit_recipe", fit_recipe)


def scaler_sees_all(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_preprocessing
    patch.setattr(stages, "fit_preprocessing", lambda config, windows: honest(config, _all_rows(windows)))


def _all_rows(windows: Windows) -> Windows:
    length = windows.input_size + windows.horizon
    return replace(windows, first=np.zeros(1, int), counts=np.array([len(windows.values) - length + 1]))


def scale_of(part: str) -> Plant:
    """Return a plant that fits the scale of `hist` or `known` columns on all rows."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_preprocessing

        def fit(config: TrainConfig, windows: Windows) -> Preprocessing:
            whole = honest(config, _all_rows(windows))
            return honest(config, windows).model_copy(update={part: getattr(whole, part)})

        patch.setattr(stages, "fit_preprocessing", fit)

    return plant


def window_mean_sees_the_future(patch: pytest.MonkeyPatch) -> None:
    def forward(self: MeanStd, x: Any, is_causal: bool) -> Any:
        xp = x.__array_namespace__()
        mean = xp.mean(x, axis=1, keepdims=True)
        deviation = xp.sqrt(xp.mean((x - mean) ** 2, axis=1, keepdims=True))
        return (x - mean) / deviation, (mean[..., None] + 0 * x[..., None], deviation[..., None] + 0 * x[..., None])

    patch.setattr(MeanStd, "forward", forward)


def statistics_across_the_batch(patch: pytest.MonkeyPatch) -> None:
    def forward(self: MeanStd, x: Any, is_causal: bool) -> Any:
        xp = x.__array_namespace__()
        mean = xp.mean(x, keepdims=True)
        deviation = xp.sqrt(xp.mean((x - mean) ** 2, keepdims=True))
        return (x - mean) / deviation, (mean, deviation)

    patch.setattr(MeanStd, "forward", forward)


def order_within_the_batch(patch: pytest.MonkeyPatch) -> None:
    honest = Standardize.forward

    def forward(self: Standardize, x: Any, is_causal: bool) -> Any:
        z, context = honest(self, x, is_causal)
        xp = x.__array_namespace__()
        # each window is told of the one after it
        return z + 0.1 * xp.concat([z[1:, :], z[:1, :]], axis=0), context

    patch.setattr(Standardize, "forward", forward)


def weights_are_fitted_before(patch: pytest.MonkeyPatch) -> None:
    honest = TrainConfig.build_network

    def build(config: TrainConfig) -> Any:
        model = honest(config)
        # as a file with weights that were fitted on all rows would have them
        random = np.random.default_rng(1)
        model.set_weights([one + random.normal(0, 0.1, one.shape) for one in model.get_weights()])
        return model

    patch.setattr(TrainConfig, "build_network", build)


def recipe_starts_warm(patch: pytest.MonkeyPatch) -> None:
    honest = stages.untrained

    def untrained(config: TrainConfig, n_windows: int) -> Any:
        model = honest(config, n_windows)
        model.set_weights([one * 1.01 for one in model.get_weights()])
        return model

    def fit(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(stages, "untrained", untrained)
            return honest_fit(*arguments)

    honest_fit = stages._fit
    patch.setattr(stages, "_fit", fit)


def epoch_is_chosen_by_test(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, checkpoints: Path, *more: Any) -> Any:
        found = []
        for epochs in range(1, config.fit.epochs + 1):
            folder = checkpoints / str(epochs)
            folder.mkdir(exist_ok=True)
            fit = config.fit.model_copy(update={"epochs": epochs})
            found.append(honest(config.model_copy(update={"fit": fit}), parts, folder, *more))
        # the history is that of the whole fit, and says nothing of it; the worst, so that it is another epoch
        trained, _, calibration = max(found, key=lambda one: error_of(one[0], parts["test"]))
        return trained, found[-1][1], calibration

    patch.setattr(stages, "fit_recipe", fit_recipe)


def fit_depends_on_test(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, *more: Any) -> Any:
        seed = abs(hash(float(parts["test"].targets().sum()))) % 1000
        return honest(config.model_copy(update={"seed": seed}), parts, *more)

    patch.setattr(stages, "fit_recipe", fit_recipe)


def calibrated_on(choose: Callable[[Parts], Windows]) -> Plant:
    """Return a plant that takes the residuals on other windows."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_recipe

        def fit_recipe(config: TrainConfig, parts: Parts, *more: Any) -> Any:
            trained, history, _ = honest(config, parts, *more)
            windows = choose(parts)
            mean = trained.forecast(windows)
            return trained, history, calibrate(windows.targets(), mean)

        patch.setattr(stages, "fit_recipe", fit_recipe)

    return plant


def residuals_of_what_was_fitted_on(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, checkpoints: Path, *more: Any) -> Any:
        trained, history, _ = honest(config, parts, checkpoints, *more)
        windows = parts["calibration"]
        fitted = stages.refit(config, joined(parts["train"], windows), history.best_epoch + 1, checkpoints)
        mean = fitted.forecast(windows)
        return trained, history, calibrate(windows.targets(), mean)

    patch.setattr(stages, "fit_recipe", fit_recipe)


def metrics_are(spoil: Callable[[dict[str, float]], dict[str, float]]) -> Plant:
    """Return a plant that changes the metrics."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages._measure
        patch.setattr(stages, "_measure", lambda *arguments: spoil(honest(*arguments)))

    return plant


def bands_are_calibrated_on_test(patch: pytest.MonkeyPatch) -> None:
    honest = stages._measure

    def measure(config: TrainConfig, parts: Parts, trained: Trained, history: Any, calibration: Any) -> Any:
        test = parts["test"]
        own = calibrate(test.targets(), trained.forecast(test))
        # narrow, so that the share is another
        return honest(config, parts, trained, history, replace(own, residuals=own.residuals * 0.3))

    patch.setattr(stages, "_measure", measure)


def worst_are_left_out(patch: pytest.MonkeyPatch) -> None:
    honest = stages._measure

    def measure(config: TrainConfig, parts: Parts, trained: Trained, *more: Any) -> Any:
        test = parts["test"]
        errors = np.abs(trained.forecast(test) - test.targets()).mean(axis=1)
        kept = np.flatnonzero(errors <= np.quantile(errors, 0.9))
        few = replace(test, first=test.starts(kept), counts=np.ones_like(kept), owners=test.owners_of(kept))
        return honest(config, parts | {"test": few}, trained, *more)

    patch.setattr(stages, "_measure", measure)


def learning_rates(config: TrainConfig) -> list[TrainConfig]:
    fits = [config.fit.model_copy(update={"learning_rate": rate}) for rate in (0.01, 0.02, 0.05)]
    return [config.model_copy(update={"fit": fit}) for fit in fits]


def seeds(config: TrainConfig) -> list[TrainConfig]:
    return [config.model_copy(update={"seed": seed}) for seed in range(3)]


def cells(config: TrainConfig) -> list[TrainConfig]:
    return [config.with_cell(cell) for cell in ("gru", "simple_rnn")]


def with_train(part: str) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"train": joined(parts["train"], parts[part])}


def with_validation(part: str) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"validation": parts[part]}


def leaks_on_many_windows(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, *more: Any) -> Any:
        trained, history, calibration = honest(config, parts, *more)
        test = parts["test"]
        if len(parts["train"]) > 100:
            mean = trained.forecast(test)
            calibration = calibrate(test.targets(), mean)
        return trained, history, calibration

    patch.setattr(stages, "fit_recipe", fit_recipe)
