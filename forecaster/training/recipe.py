"""The recipe: what is fitted on which windows, and what the held-out parts say of it.

A network is fitted on the train part, stopped on validation, its residuals taken on calibration, and looked at once on
test. The same recipe, for as many epochs, can then be fitted on every window up to the latest observation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from forecaster.data.calendars import NAMES, get_calendar
from forecaster.data.long_frame import check_long_frame
from forecaster.data.sources import AnySource, FilesSource
from forecaster.data.transforms import Chain, Transforms
from forecaster.data.windows import SplitConfig, Windows
from forecaster.domain.config import Config
from forecaster.domain.series import Floats, Series
from forecaster.domain.sessions import Sessions
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration, calibrate
from forecaster.evaluation.metrics import METRICS, mae, mase, relative_mae
from forecaster.models.network import ModelConfig, build_model
from forecaster.training import devices
from forecaster.training.export import Trained
from forecaster.training.fit import Examples, FitConfig, History, fit
from forecaster.training.tracking import TrackingConfig

LEVELS = (80, 95)
# called after each epoch with the phase (`recipe` or `served`), the epoch, its loss and its validation loss
OnEpoch = Callable[[str, int, float, float | None], None]


def say_nothing(phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
    """Ignore an epoch: for whoever tracks nothing."""


class TrainConfig(Config):
    """All that decides a trained version.

    Args:
        name: the registered model that gains a version.
        freq: the series' frequency, or the code of the exchange whose sessions they are; inferred when null.
        input_size: rows of input.
        horizon: rows of forecast.
        step_size: rows from one training window's start to the next one's.
        transforms: applied to the inputs in this order.
        seed: decides the weights, the order of windows and the dropout masks.
        refit: whether the registered version is fitted once more, through the latest observation.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    data: AnySource
    freq: str | None = None
    input_size: int = Field(ge=2)
    horizon: int = Field(ge=1)
    step_size: int = Field(1, ge=1)
    split: SplitConfig = SplitConfig()
    transforms: Transforms = ()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    refit: bool = True
    seed: int = Field(0, ge=0, lt=2**31)
    tracking: TrackingConfig = TrackingConfig()


@dataclass(frozen=True)
class Evaluated:
    """A recipe's fit and what the held-out parts say of it."""

    trained: Trained
    history: History
    calibration: Calibration
    metrics: dict[str, float]


def prepare(config: TrainConfig, frame: pd.DataFrame) -> Series:
    """Return a long frame checked against what the configuration needs of it.

    Raises:
        DataError: the frame is not fit for the configuration.
    """
    where = str(config.data.path) if isinstance(config.data, FilesSource) else config.data.source
    series = check_long_frame(frame, sessions_of(config) or config.freq, config.input_size + config.horizon, where)
    chain = Chain(steps=config.transforms, is_causal=config.model.how.answers_each_step)
    for unique_id, rows in series:
        chain.check(series.values[rows, 0], f"{where}, series '{unique_id}'")
    return series


def sessions_of(config: TrainConfig) -> Sessions | None:
    """Return the sessions of the exchange that `freq` names, None where it is a frequency."""
    return get_calendar(config.freq).as_frequency() if config.freq in NAMES else None


def evaluate(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = say_nothing
) -> Evaluated:
    """Fit on train and validation, calibrate on calibration, measure on test.

    Args:
        config: the recipe.
        parts: the windows of each part.
        checkpoints: the folder in which an interrupted fit is kept.
        on_epoch: told of each epoch.
    """
    devices.prepare(config.seed, config.fit.mixed_precision)
    chain = _fit_chain(config, parts["train"])
    how = config.model.how
    trained, history = _fit(
        config,
        Examples(parts["train"], chain, how),
        Examples(parts["validation"], chain, how),
        checkpoints / "recipe.npz",
        on_epoch,
    )
    held_back = parts["calibration"]
    calibration = calibrate(held_back.targets(_all(held_back)), trained.predict(_inputs(held_back)))
    return Evaluated(trained, history, calibration, _measure(config, parts, trained, calibration))


def refit(
    config: TrainConfig, windows: Windows, epochs: int, checkpoints: Path, on_epoch: OnEpoch = say_nothing
) -> Trained:
    """Fit the recipe for `epochs` epochs on windows that reach up to the latest observation."""
    chain = _fit_chain(config, windows)
    devices.prepare(config.seed, config.fit.mixed_precision)
    examples = Examples(windows, chain, config.model.how)
    return _fit(config, examples, None, checkpoints / "served.npz", on_epoch, epochs)[0]


def _fit(
    config: TrainConfig,
    train: Examples,
    validation: Examples | None,
    checkpoint: Path,
    on_epoch: OnEpoch,
    epochs: int | None = None,
) -> tuple[Trained, History]:
    phase = checkpoint.stem
    with devices.all_devices():
        model = build_model(config.model, config.input_size, config.horizon, seed=config.seed)
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
    return Trained(_in_float32(config, model), config.model, train.chain), history


def _in_float32(config: TrainConfig, model: Any) -> Any:
    """Return the network as it is exported and measured: float32 whatever it was trained in, on one device."""
    devices.prepare(config.seed, mixed_precision=False)
    plain = build_model(config.model, config.input_size, config.horizon, seed=config.seed)
    plain.set_weights(model.get_weights())
    return plain


def _fit_chain(config: TrainConfig, windows: Windows) -> Chain:
    chain = Chain(steps=config.transforms, is_causal=config.model.how.answers_each_step)
    size = max(1, 2**22 // windows.input_size)
    index = _all(windows)
    return chain.fit(
        lambda: (windows.inputs(index[begin : begin + size])[:, :, 0] for begin in range(0, len(index), size))
    )


def _measure(
    config: TrainConfig, parts: dict[str, Windows], trained: Trained, calibration: Calibration
) -> dict[str, float]:
    windows = parts["test"]
    inputs, actual = _inputs(windows), windows.targets(_all(windows))
    mean, naive = trained.predict(inputs), last_value(inputs, config.horizon)
    scale = _naive_scale(config, parts["train"], inputs)
    metrics = {name: metric(actual, mean) for name, metric in METRICS.items()}
    metrics |= {f"naive-{name}": metric(actual, naive) for name, metric in METRICS.items()}
    metrics |= {"mase": mase(actual, mean, scale), "naive-mase": mase(actual, naive, scale)}
    metrics["relative_mae"] = relative_mae(actual, mean, naive)
    # what choices between recipes are made on, so that test is looked at for the table alone
    validation = parts["validation"]
    metrics["validation-mae"] = mae(validation.targets(_all(validation)), trained.predict(_inputs(validation)))
    for level in LEVELS:
        edges = np.array([(100 - level) / 200, (100 + level) / 200])
        if calibration.probabilities[0] <= edges[0]:
            spread = calibration.quantiles(edges)
            inside = (actual >= mean + spread[:, 0]) & (actual <= mean + spread[:, 1])
            metrics[f"coverage-{level}"] = float(inside.mean())
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _naive_scale(config: TrainConfig, train: Windows, test_inputs: Floats) -> float:
    """Return the in-sample MAE of the one-step naive forecast, on train rows or, where series are split, on inputs."""
    if config.split.by == "series":
        return float(np.abs(np.diff(test_inputs, axis=1)).mean())
    lengths = (train.counts - 1) * train.step_size + train.input_size + train.horizon
    steps = [np.abs(np.diff(train.values[a : a + n, 0])) for a, n in zip(train.first, lengths, strict=True)]
    return float(np.concatenate(steps).mean())


def title(config: TrainConfig) -> str:
    """Return what a run of this configuration is called."""
    return f"{config.name} {config.model.cell} {config.model.topology}"


def _all(windows: Windows) -> NDArray[np.int64]:
    return np.arange(len(windows))


def _inputs(windows: Windows) -> Floats:
    return windows.inputs(_all(windows))[:, :, 0]
