"""The stages of a training: fit a recipe, evaluate it on the held-out parts, and refit it on all rows.

A network is fitted on the train part and stopped by the validation part. The calibration part and forward folds of the
rows before it supply the residuals for the intervals. The test part supplies the metrics. The refit then fits the same
recipe for the same number of epochs on every window up to the latest observation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows, spans_of
from forecaster.domain.missing import carried
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.metrics import METRICS, mae, mase, naive_scale, relative_mae
from forecaster.evaluation.probabilistic import coverage
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import TrainedNetwork
from forecaster.training import devices, networks
from forecaster.training.config import TrainConfig, build_preprocessing, title
from forecaster.training.examples import CHUNK_VALUES, Examples
from forecaster.training.fit import History, fit
from forecaster.training.residuals import calibrate_on, folds_of, served_bands
from forecaster.training.warm_start import load_weights

# takes the phase (`recipe` or `served`), the epoch, its loss and its validation loss
OnEpoch = Callable[[str, int, float, float | None], None]


def ignore_epoch(phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
    """Do nothing: the default `on_epoch`."""


@dataclass(frozen=True)
class Evaluation:
    """A fitted recipe and its results on the held-out parts.

    Args:
        trained: the fitted network.
        history: its losses by epoch.
        calibration: the residuals that size its intervals.
        metrics: its figures on the test part, and its MAE on the validation part as `validation-mae`.
        test_forecast: its mean forecasts of the test part, `(n, horizon)`.
    """

    trained: TrainedNetwork
    history: History
    calibration: Calibration
    metrics: dict[str, float]
    test_forecast: Floats


def evaluate(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = ignore_epoch
) -> Evaluation:
    """Fit a recipe and measure it on the validation and test parts; takes the arguments of `fit_recipe`."""
    trained, history, calibration = fit_recipe(config, parts, checkpoints, on_epoch)
    forecasts = {name: trained.forecast(parts[name]) for name in ("validation", "test")}
    metrics = _measure(config, parts, forecasts, calibration)
    return Evaluation(trained, history, calibration, metrics, forecasts["test"].mean)


def fit_recipe(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = ignore_epoch
) -> tuple[TrainedNetwork, History, Calibration]:
    """Fit on the train part, stop by the validation part, and calibrate on the calibration part and forward folds.

    Each fold's network is fitted for the same number of epochs and has its own checkpoint.

    Args:
        config: the recipe.
        parts: the windows of each part.
        checkpoints: the folder that keeps an interrupted fit.
        on_epoch: called after each epoch of the recipe's network.
    """
    trained, history = fit_network(config, parts, checkpoints, on_epoch)
    forecasts = [
        (
            held_out,
            _fit_fold(config, seen, history.best_epoch + 1, checkpoints / f"fold-{number}.npz").forecast(held_out),
        )
        for number, (seen, held_out) in enumerate(folds_of(config, parts), start=1)
    ]
    calibration = parts["calibration"]
    return trained, history, calibrate_on(config, [*forecasts, (calibration, trained.forecast(calibration))])


def fit_network(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = ignore_epoch
) -> tuple[TrainedNetwork, History]:
    """Fit on the train part and stop by the validation part; takes the arguments of `fit_recipe`."""
    devices.prepare(config.seed, config.fit.mixed_precision)
    preprocessing = fit_preprocessing(config, parts["train"])
    return _fit(
        config,
        Examples(parts["train"], preprocessing, config.model),
        Examples(parts["validation"], preprocessing, config.model),
        checkpoints / "recipe.npz",
        on_epoch,
    )


def _fit_fold(config: TrainConfig, seen: Windows, epochs: int, checkpoint: Path) -> TrainedNetwork:
    devices.prepare(config.seed, config.fit.mixed_precision)
    examples = Examples(seen, fit_preprocessing(config, seen), config.model)
    return _fit(config, examples, None, checkpoint, ignore_epoch, epochs)[0]


def refit(
    config: TrainConfig,
    windows: Windows,
    epochs: int,
    checkpoints: Path,
    on_epoch: OnEpoch = ignore_epoch,
    weights: Path | None = None,
) -> TrainedNetwork:
    """Fit the recipe for `epochs` epochs on windows that reach up to the latest observation.

    Args:
        config: the recipe.
        windows: the windows to fit on.
        epochs: the number of epochs.
        checkpoints: the folder that keeps an interrupted fit.
        on_epoch: called after each epoch.
        weights: a saved network of the same shape to start from; None starts from random weights.

    Raises:
        TrainingError: the saved network is another one.
    """
    preprocessing = fit_preprocessing(config, windows)
    devices.prepare(config.seed, config.fit.mixed_precision)
    examples = Examples(windows, preprocessing, config.model)
    return _fit(config, examples, None, checkpoints / "served.npz", on_epoch, epochs, weights)[0]


def _fit(
    config: TrainConfig,
    train: Examples,
    validation: Examples | None,
    checkpoint: Path,
    on_epoch: OnEpoch,
    epochs: int | None = None,
    weights: Path | None = None,
) -> tuple[TrainedNetwork, History]:
    phase = checkpoint.stem
    shape = train.shape
    with devices.all_devices(config.fit.shared_rows(len(train))):
        if weights is None:
            model = compile_untrained(config, len(train), shape)
        else:
            # not compiled: the saved network has no optimizer to load into a compiled network
            model = config.build_network(shape)
            load_weights(model, config.model, train.windows.static_columns, weights)
        history = fit(
            model,
            config.fit,
            train,
            validation,
            config.seed,
            checkpoint,
            on_epoch=lambda epoch, loss, held_out: on_epoch(phase, epoch, loss, held_out),
            label=f"{title(config)} {phase}",
            epochs=epochs,
        )
    return TrainedNetwork(_in_float32(config, shape, model), config.model, shape, train.preprocessing), history


def compile_untrained(config: TrainConfig, n_windows: int, shape: NetworkShape) -> Any:
    """Return the configuration's untrained network of this shape, compiled for a fit on `n_windows` windows."""
    key = networks.NetworkKey(config.seed, config.model, shape, config.is_masked)
    size = min(config.fit.batch_size, n_windows)
    batches = networks.Batches(size, n_windows // size)
    return networks.get_compiled(lambda: config.build_network(shape), key, config.fit, batches)


def _in_float32(config: TrainConfig, shape: NetworkShape, model: Any) -> Any:
    """Return a copy of the network in float32 on one device, for the export and the evaluation."""
    devices.prepare(config.seed, mixed_precision=False)
    copy = config.build_network(shape)
    copy.set_weights(model.get_weights())
    return copy


def fit_preprocessing(config: TrainConfig, windows: Windows) -> Preprocessing:
    """Return the configuration's preprocessing, fitted on these windows."""

    def chunks() -> Iterator[Inputs]:
        return (windows.inputs(index) for index in windows.chunks(max(1, CHUNK_VALUES // windows.input_size)))

    return build_preprocessing(config, windows.static_columns).fit(chunks)


def _measure(
    config: TrainConfig, parts: dict[str, Windows], forecasts: dict[str, Forecasts], calibration: Calibration
) -> dict[str, float]:
    windows, mean = parts["test"], forecasts["test"].mean
    actual = windows.targets()
    naive = last_value(windows.inputs().target, config.horizon)
    scale = mase_scales(parts["train"], windows)
    metrics = {name: metric(actual, mean) for name, metric in METRICS.items()}
    metrics |= {f"naive-{name}": metric(actual, naive) for name, metric in METRICS.items()}
    metrics |= {"mase": mase(actual, mean, scale), "naive-mase": mase(actual, naive, scale)}
    metrics["relative_mae"] = relative_mae(actual, mean, naive)
    # for choices between recipes: the test part must not decide any
    metrics["validation-mae"] = mae(parts["validation"].targets(), forecasts["validation"].mean)
    for level, (low, high) in served_bands(calibration, windows, forecasts["test"]).items():
        metrics[f"coverage-{level}"] = coverage(actual, low, high)
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def mase_scales(train: Windows, windows: Windows) -> Floats:
    """Return the MASE scale of each window, `(n, 1)`: the one-step naive MAE of its series on the train rows.

    If its series has no train rows (as in a split by series), the scale comes from the window's own inputs.
    """
    known = {
        int(owner): naive_scale(train.values[begin:end, 0]) for owner, begin, end in zip(*spans_of(train), strict=True)
    }
    owners = windows.owners_of(np.arange(len(windows)))
    found = np.array([known.get(int(owner), np.nan) for owner in owners])[:, None]
    if np.isnan(found).any():
        own = np.abs(np.diff(carried(windows.inputs().target), axis=1)).mean(axis=1, keepdims=True)
        return np.where(np.isnan(found), own, found)
    return found
