"""Planted leaks in the fit and the evaluation: each changes one stage of a training, as a mistake in its code would."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.windows import Windows
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.trained import TrainedNetwork
from forecaster.training import fit as fitting
from forecaster.training import stages, stateful
from forecaster.training.config import TrainConfig
from forecaster.training.examples import Examples
from forecaster.training.stages import Evaluation

Parts = dict[str, Windows]
ByPart = dict[str, Forecasts]
# plants a leak
Plant = Callable[[pytest.MonkeyPatch], None]


def mean_error(trained: TrainedNetwork, windows: Windows) -> float:
    return float(np.abs(trained.forecast(windows).mean - windows.targets()).mean())


def join(windows: Windows, more: Windows) -> Windows:
    first, counts, owners = (
        np.concatenate([getattr(windows, name), getattr(more, name)]) for name in ("first", "counts", "owners")
    )
    return replace(windows, first=first, counts=counts, owners=owners)


def with_train(part: str) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"train": join(parts["train"], parts[part])}


def with_validation(part: str) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"validation": parts[part]}


def recipe_on(change: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that fits and calibrates on changed parts, and measures on the original ones."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_recipe
        patch.setattr(
            stages, "fit_recipe", lambda config, parts, *more: honest(config, change(parts), *more)
        )  # fmt: skip

    return plant


def chosen_by_test(variants: Callable[[TrainConfig], list[TrainConfig]]) -> Plant:
    """Return a plant that fits several recipes and keeps the recipe with the lowest error on the test part."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.evaluate

        def evaluate(config: TrainConfig, parts: Parts, checkpoints: Path, *more: Any) -> Evaluation:
            evaluations = []
            for number, variant in enumerate(variants(config)):
                folder = checkpoints / str(number)
                folder.mkdir(exist_ok=True)
                evaluations.append(honest(variant, parts, folder, *more))
            return min(evaluations, key=lambda evaluated: mean_error(evaluated.trained, parts["test"]))

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
    memo: dict[int, Any] = {}

    def fit_recipe(config: TrainConfig, *more: Any) -> Any:
        key = config.fit.batch_size
        return memo[key] if key in memo else memo.setdefault(key, honest(config, *more))

    patch.setattr(stages, "fit_recipe", fit_recipe)


def metrics_of_validation(patch: pytest.MonkeyPatch) -> None:
    honest = stages._measure

    def measure(config: TrainConfig, parts: Parts, forecasts: ByPart, *more: Any) -> Any:
        return honest(
            config, parts | {"test": parts["validation"]}, forecasts | {"test": forecasts["validation"]}, *more
        )

    patch.setattr(stages, "_measure", measure)


def weights_are_fitted_before(patch: pytest.MonkeyPatch) -> None:
    honest = TrainConfig.build_network

    def build(config: TrainConfig, *shape: Any) -> Any:
        model = honest(config, *shape)
        # like weights from a file, fitted on all rows
        random = np.random.default_rng(1)
        model.set_weights([weight + random.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
        return model

    patch.setattr(TrainConfig, "build_network", build)


def recipe_starts_warm(patch: pytest.MonkeyPatch) -> None:
    honest = stages.compile_untrained

    def compile_untrained(config: TrainConfig, *arguments: Any) -> Any:
        model = honest(config, *arguments)
        model.set_weights([weight * 1.01 for weight in model.get_weights()])
        return model

    def fit(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(stages, "compile_untrained", compile_untrained)
            return honest_fit(*arguments)

    honest_fit = stages._fit
    patch.setattr(stages, "_fit", fit)


def regression_is_fitted_on_validation_too(patch: pytest.MonkeyPatch) -> None:
    honest = fitting.fit

    def fit(model: Any, config: Any, train: Examples, validation: Examples | None, *more: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as within:
            if validation is not None:
                both = replace(train, windows=join(train.windows, validation.windows))
                honest_skip = fitting._fit_skip
                within.setattr(fitting, "_fit_skip", lambda model, train, size: honest_skip(model, both, size))
            return honest(model, config, train, validation, *more, **options)

    patch.setattr(stages, "fit", fit)


def regression_reads_on_over_the_border(patch: pytest.MonkeyPatch) -> None:
    honest = fitting._fit_skip

    def fit_skip(model: Any, train: Examples, batch_size: int) -> None:
        longer = replace(train.windows, counts=train.windows.counts + 8)
        honest(model, replace(train, windows=longer), batch_size)

    patch.setattr(fitting, "_fit_skip", fit_skip)


def streams_read_on_over_the_border(patch: pytest.MonkeyPatch) -> None:
    honest = stateful.Streams

    def streams(examples: Examples, *more: Any) -> stateful.Streams:
        longer = replace(examples.windows, counts=examples.windows.counts + 8)
        return honest(replace(examples, windows=longer), *more)

    patch.setattr(stateful, "Streams", streams)


def epoch_is_chosen_by_test(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, checkpoints: Path, *more: Any) -> Any:
        found = []
        for epochs in range(1, config.fit.epochs + 1):
            folder = checkpoints / str(epochs)
            folder.mkdir(exist_ok=True)
            fit = config.fit.model_copy(update={"epochs": epochs})
            found.append(honest(config.model_copy(update={"fit": fit}), parts, folder, *more))
        # the history of the whole fit hides the choice; the worst network, so that it comes from another epoch
        trained, _, calibration = max(found, key=lambda fitted: mean_error(fitted[0], parts["test"]))
        return trained, found[-1][1], calibration

    patch.setattr(stages, "fit_recipe", fit_recipe)


def fit_depends_on_test(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, *more: Any) -> Any:
        seed = abs(hash(float(parts["test"].targets().sum()))) % 1000
        return honest(config.model_copy(update={"seed": seed}), parts, *more)

    patch.setattr(stages, "fit_recipe", fit_recipe)


def calibrated_on(choose: Callable[[Parts], Windows]) -> Plant:
    """Return a plant that calibrates on other windows."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_recipe

        def fit_recipe(config: TrainConfig, parts: Parts, *more: Any) -> Any:
            trained, history, _ = honest(config, parts, *more)
            windows = choose(parts)
            mean = trained.forecast(windows)
            return trained, history, calibrate(windows.targets(), mean)

        patch.setattr(stages, "fit_recipe", fit_recipe)

    return plant


def residuals_are_in_sample(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_recipe

    def fit_recipe(config: TrainConfig, parts: Parts, checkpoints: Path, *more: Any) -> Any:
        trained, history, _ = honest(config, parts, checkpoints, *more)
        windows = parts["calibration"]
        fitted = stages.refit(config, join(parts["train"], windows), history.best_epoch + 1, checkpoints)
        mean = fitted.forecast(windows)
        return trained, history, calibrate(windows.targets(), mean)

    patch.setattr(stages, "fit_recipe", fit_recipe)


def bands_are_calibrated_on_test(patch: pytest.MonkeyPatch) -> None:
    honest = stages._measure

    def measure(config: TrainConfig, parts: Parts, forecasts: ByPart, calibration: Any) -> Any:
        own = calibrate(parts["test"].targets(), forecasts["test"])
        # narrower, so that the coverage differs
        return honest(config, parts, forecasts, replace(own, residuals=own.residuals * 0.3))

    patch.setattr(stages, "_measure", measure)


def largest_errors_are_left_out(patch: pytest.MonkeyPatch) -> None:
    honest = stages._measure

    def measure(config: TrainConfig, parts: Parts, forecasts: ByPart, *more: Any) -> Any:
        test, predicted = parts["test"], forecasts["test"]
        errors = np.abs(predicted.mean - test.targets()).mean(axis=1)
        kept = np.flatnonzero(errors <= np.quantile(errors, 0.9))
        few = replace(test, first=test.starts(kept), counts=np.ones_like(kept), owners=test.owners_of(kept))
        return honest(config, parts | {"test": few}, forecasts | {"test": predicted.take(kept)}, *more)

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
