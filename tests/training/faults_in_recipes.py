"""Planted leaks in what is fitted and measured: each spoils one stage of a training, as a mistake in its code would."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.windows import Windows
from forecaster.evaluation.conformal import calibrate
from forecaster.training import stages
from forecaster.training.config import TrainConfig
from forecaster.training.export import Trained
from forecaster.training.stages import Evaluated

Parts = dict[str, Windows]
Plant = Callable[[pytest.MonkeyPatch], None]


def error_of(trained: Trained, windows: Windows) -> float:
    return float(np.abs(trained.forecast(windows) - windows.targets()).mean())


def joined(one: Windows, other: Windows) -> Windows:
    first, counts, owners = (
        np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("first", "counts", "owners")
    )
    return replace(one, first=first, counts=counts, owners=owners)


def with_train(part: str) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"train": joined(parts["train"], parts[part])}


def with_validation(part: str) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"validation": parts[part]}


def recipe_on(spoil: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that fits and calibrates on other parts than it measures on."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_recipe
        patch.setattr(
            stages, "fit_recipe", lambda config, parts, *more: honest(config, spoil(parts), *more)
        )  # fmt: skip

    return plant


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


def seeds(config: TrainConfig) -> list[TrainConfig]:
    return [config.model_copy(update={"seed": seed}) for seed in range(3)]


def cells(config: TrainConfig) -> list[TrainConfig]:
    return [config.with_cell(cell) for cell in ("gru", "simple_rnn")]


def learning_rates(config: TrainConfig) -> list[TrainConfig]:
    fits = [config.fit.model_copy(update={"learning_rate": rate}) for rate in (0.01, 0.02, 0.05)]
    return [config.model_copy(update={"fit": fit}) for fit in fits]


def recipe_is_memoised(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe
    kept: dict[int, Any] = {}

    def fit_recipe(config: TrainConfig, *more: Any) -> Any:
        key = config.fit.batch_size
        return kept[key] if key in kept else kept.setdefault(key, honest(config, *more))

    patch.setattr(stages, "fit_recipe", fit_recipe)


def measured_on(spoil: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that measures on other parts than it says."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages._measure
        patch.setattr(stages, "_measure", lambda config, parts, *more: honest(config, spoil(parts), *more))

    return plant


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
