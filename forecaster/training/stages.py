"""The stages of a recipe: fitted, measured on the parts that were held out, fitted again.

A network is fitted on the train part, stopped on validation, its residuals taken on calibration, and looked at once on
test; networks of forward folds give residuals of earlier rows. The same recipe, for as many epochs, can then be fitted
on every window up to the latest observation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.domain.errors import TrainingError
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.metrics import METRICS, mae, mase, naive_scale, relative_mae
from forecaster.evaluation.probabilistic import coverage
from forecaster.models.topologies import TOPOLOGIES
from forecaster.training import devices, networks
from forecaster.training.config import TrainConfig, title, unfitted
from forecaster.training.export import Trained
from forecaster.training.fit import Examples, History, fit
from forecaster.training.residuals import calibrate_on, folds_of, served_bands

# called after each epoch with the phase (`recipe` or `served`), the epoch, its loss and its validation loss
OnEpoch = Callable[[str, int, float, float | None], None]


def say_nothing(phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
    """Ignore an epoch: for whoever tracks nothing."""


@dataclass(frozen=True)
class Evaluated:
    """A recipe's fit and what the held-out parts say of it."""

    trained: Trained
    history: History
    calibration: Calibration
    metrics: dict[str, float]


def evaluate(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = say_nothing
) -> Evaluated:
    """Fit on train and validation, calibrate on calibration, measure on test; arguments as `fit_recipe` has them."""
    fitted = fit_recipe(config, parts, checkpoints, on_epoch)
    return Evaluated(*fitted, _measure(config, parts, *fitted))


def fit_recipe(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = say_nothing
) -> tuple[Trained, History, Calibration]:
    """Fit on train, stopped on validation, and take the residuals on calibration and on forward folds.

    A fold's network is fitted for as many epochs, and has its own checkpoint.

    Args:
        config: the recipe.
        parts: the windows of each part.
        checkpoints: the folder in which an interrupted fit is kept.
        on_epoch: told of each epoch.
    """
    devices.prepare(config.seed, config.fit.mixed_precision)
    preprocessing = fit_preprocessing(config, parts["train"])
    topology = TOPOLOGIES[config.model.topology]
    trained, history = _fit(
        config,
        Examples(parts["train"], preprocessing, topology),
        Examples(parts["validation"], preprocessing, topology),
        checkpoints / "recipe.npz",
        on_epoch,
    )
    forecasts = [
        (
            held_out,
            _fit_fold(config, seen, history.best_epoch + 1, checkpoints / f"fold-{number}.npz").forecast(held_out),
        )
        for number, (seen, held_out) in enumerate(folds_of(config, parts), start=1)
    ]
    held_back = parts["calibration"]
    return trained, history, calibrate_on(config, [*forecasts, (held_back, trained.forecast(held_back))])


def _fit_fold(config: TrainConfig, seen: Windows, epochs: int, checkpoint: Path) -> Trained:
    devices.prepare(config.seed, config.fit.mixed_precision)
    examples = Examples(seen, fit_preprocessing(config, seen), TOPOLOGIES[config.model.topology])
    return _fit(config, examples, None, checkpoint, say_nothing, epochs)[0]


def refit(
    config: TrainConfig,
    windows: Windows,
    epochs: int,
    checkpoints: Path,
    on_epoch: OnEpoch = say_nothing,
    weights: Path | None = None,
) -> Trained:
    """Fit the recipe for `epochs` epochs on windows that reach up to the latest observation.

    Args:
        config: the recipe.
        windows: what it learns from.
        epochs: how long.
        checkpoints: the folder in which an interrupted fit is kept.
        on_epoch: told of each epoch.
        weights: a saved network of the same shape to start from; random weights when None.

    Raises:
        TrainingError: the saved network has another shape.
    """
    preprocessing = fit_preprocessing(config, windows)
    devices.prepare(config.seed, config.fit.mixed_precision)
    examples = Examples(windows, preprocessing, TOPOLOGIES[config.model.topology])
    return _fit(config, examples, None, checkpoints / "served.npz", on_epoch, epochs, weights)[0]


def _fit(
    config: TrainConfig,
    train: Examples,
    validation: Examples | None,
    checkpoint: Path,
    on_epoch: OnEpoch,
    epochs: int | None = None,
    weights: Path | None = None,
) -> tuple[Trained, History]:
    phase = checkpoint.stem
    with devices.all_devices():
        if weights is None:
            model = untrained(config, len(train))
        else:
            # a saved network has no optimizer to load into a compiled one
            model = config.build_network()
            _load_weights(model, weights)
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
    return Trained(_in_float32(config, model), config.model, train.preprocessing), history


def untrained(config: TrainConfig, n_windows: int) -> Any:
    """Return the configuration's network, compiled for a fit on so many windows."""
    columns = (config.hist_exog, config.futr_exog, config.calendar_features)
    decides = networks.Decides(config.seed, config.model, (config.input_size, config.horizon, *columns))
    return networks.compiled(config.build_network, decides, config.fit, n_windows)


def _load_weights(model: Any, file: Path) -> None:
    try:
        model.load_weights(file)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"{file}: a network of another shape cannot be started from ({reason}); set retrain.warm_epochs to null"
        ) from error


def _in_float32(config: TrainConfig, model: Any) -> Any:
    """Return the network as it is exported and measured: float32 whatever it was trained in, on one device."""
    devices.prepare(config.seed, mixed_precision=False)
    plain = config.build_network()
    plain.set_weights(model.get_weights())
    return plain


def fit_preprocessing(config: TrainConfig, windows: Windows) -> Preprocessing:
    """Return what the configuration asks to be done to the inputs, fitted on these windows alone."""

    def chunks() -> Iterator[Inputs]:
        return (windows.inputs(index) for index in windows.chunks(max(1, 2**22 // windows.input_size)))

    return unfitted(config).fit(chunks)


def _measure(
    config: TrainConfig, parts: dict[str, Windows], trained: Trained, history: History, calibration: Calibration
) -> dict[str, float]:
    windows = parts["test"]
    actual, mean = windows.targets(), trained.forecast(windows)
    past = windows.inputs().target
    naive = last_value(past, config.horizon)
    scale = scales(parts["train"], windows)
    metrics = {name: metric(actual, mean) for name, metric in METRICS.items()}
    metrics |= {f"naive-{name}": metric(actual, naive) for name, metric in METRICS.items()}
    metrics |= {"mase": mase(actual, mean, scale), "naive-mase": mase(actual, naive, scale)}
    metrics["relative_mae"] = relative_mae(actual, mean, naive)
    # what choices between recipes are made on, so that test is looked at for the table alone
    validation = parts["validation"]
    metrics["validation-mae"] = mae(validation.targets(), trained.forecast(validation))
    for level, (low, high) in served_bands(calibration, windows, mean).items():
        metrics[f"coverage-{level}"] = coverage(actual, low, high)
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def scales(train: Windows, windows: Windows) -> Floats:
    """Return the scale of each window's MASE, `(n, 1)`: its series' one-step naive MAE on its train rows.

    A series that has no train rows, as where whole series are split, has its own inputs' instead.
    """
    lengths = (train.counts - 1) * train.step_size + train.input_size + train.horizon
    known = {
        int(owner): naive_scale(train.values[first : first + length, 0])
        for owner, first, length in zip(train.owners, train.first, lengths, strict=True)
    }
    owners = windows.owners_of(np.arange(len(windows)))
    found = np.array([known.get(int(owner), np.nan) for owner in owners])[:, None]
    if np.isnan(found).any():
        own = np.abs(np.diff(windows.inputs().target, axis=1)).mean(axis=1, keepdims=True)
        return np.where(np.isnan(found), own, found)
    return found
