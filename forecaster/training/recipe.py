"""The recipe: what is fitted on which windows, and what the held-out parts say of it.

A network is fitted on the train part, stopped on validation, its residuals taken on calibration, and looked at once on
test. The same recipe, for as many epochs, can then be fitted on every window up to the latest observation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from forecaster.data.calendar_features import calendar_features, check_names
from forecaster.data.calendars import NAMES, get_calendar
from forecaster.data.long_frame import check_long_frame
from forecaster.data.preprocessing import HistColumns, Preprocessing
from forecaster.data.sources import AnySource
from forecaster.data.transforms import Chain, Standardize, Transforms
from forecaster.data.windows import PARTS, SplitConfig, Windows, split_windows
from forecaster.domain.config import Config
from forecaster.domain.errors import TrainingError
from forecaster.domain.frequency import Step, parse
from forecaster.domain.series import DS, UNIQUE_ID, Floats, Inputs, Series, Y
from forecaster.domain.sessions import Sessions
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration, calibrate
from forecaster.evaluation.metrics import METRICS, mae, mase, naive_scale, relative_mae
from forecaster.evaluation.probabilistic import coverage
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
        transforms: applied to the target in this order.
        hist_exog: columns of the data that are known up to the forecast's start, each with its transforms.
        futr_exog: columns that are known ahead; whoever asks for a forecast gives them for the horizon too.
        calendar_features: what the timestamps themselves tell, known ahead to everyone.
        seed: decides the weights, the order of windows and the dropout masks.
        intervals: the unit in which residuals are compared: `constant`, or `ewma`, the window's volatility.
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
    hist_exog: HistColumns = ()
    futr_exog: tuple[str, ...] = ()
    calendar_features: tuple[str, ...] = ()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    intervals: Literal["constant", "ewma"] = "constant"
    refit: bool = True
    seed: int = Field(0, ge=0, lt=2**31)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="after")
    def _columns_are_told_apart(self) -> "TrainConfig":
        names = [*(one.column for one in self.hist_exog), *self.futr_exog]
        repeated = sorted({name for name in names if names.count(name) > 1 or name in (UNIQUE_ID, DS, Y)})
        if repeated:
            raise ValueError(f"hist_exog and futr_exog: {repeated} are named twice, or are the series themselves")
        return self

    @property
    def exogenous(self) -> tuple[str, ...]:
        """Return the columns that the data must have beside the target."""
        return (*(one.column for one in self.hist_exog), *self.futr_exog)

    def with_cell(self, cell: str) -> "TrainConfig":
        """Return the same recipe with another cell."""
        return self.model_copy(update={"model": self.model.model_copy(update={"cell": cell})})

    def build_network(self) -> Any:
        """Return the untrained network."""
        known = len(self.futr_exog) + len(self.calendar_features)
        features = 1 + len(self.hist_exog)
        return build_model(self.model, self.input_size, self.horizon, features, known, self.seed)


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
        ConfigError: a calendar feature is unknown, or needs an exchange's sessions.
    """
    sessions, where = sessions_of(config), config.data.place
    check_names(config.calendar_features, sessions)
    hist = [one.column for one in config.hist_exog]
    length = config.input_size + config.horizon
    series = check_long_frame(frame, sessions or config.freq, length, where, hist, config.futr_exog)
    preprocessing = unfitted(config)
    for unique_id, rows in series:
        for name, chain, column in zip(
            (Y, *hist), (preprocessing.target, *preprocessing.hist), series.values[rows].T, strict=True
        ):
            chain.check(column, f"{where}, series '{unique_id}', column {name}")
    return _with_calendar(series, config.calendar_features, sessions or parse(series.freq))


def _with_calendar(series: Series, names: tuple[str, ...], step: Step) -> Series:
    if not names:
        return series
    told = calendar_features(names, series.timestamps, step)
    known = told if series.known is None else np.concatenate([series.known, told], axis=1)
    return replace(series, known=known)


def split(config: TrainConfig, series: Series, parts: Sequence[str] = PARTS) -> dict[str, Windows]:
    """Return the windows of each part.

    Raises:
        TooShortError: a part has none.
    """
    return split_windows(series, config.split, config.input_size, config.horizon, config.step_size, parts)


def unfitted(config: TrainConfig) -> Preprocessing:
    """Return the preprocessing that a configuration asks for, not yet fitted."""
    is_causal = config.model.how.answers_each_step
    return Preprocessing(
        target=Chain(steps=config.transforms, is_causal=is_causal),
        hist=tuple(Chain(steps=one.transforms, is_causal=is_causal) for one in config.hist_exog),
        known=tuple(Standardize() for _ in (*config.futr_exog, *config.calendar_features)),
    )


def sessions_of(config: TrainConfig) -> Sessions | None:
    """Return the sessions of the exchange that `freq` names, None where it is a frequency."""
    return get_calendar(config.freq).as_frequency() if config.freq in NAMES else None


def evaluate(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = say_nothing
) -> Evaluated:
    """Fit on train and validation, calibrate on calibration, measure on test; arguments as `fit_recipe` has them."""
    fitted = fit_recipe(config, parts, checkpoints, on_epoch)
    return Evaluated(*fitted, _measure(config, parts, *fitted))


def fit_recipe(
    config: TrainConfig, parts: dict[str, Windows], checkpoints: Path, on_epoch: OnEpoch = say_nothing
) -> tuple[Trained, History, Calibration]:
    """Fit on train, stopped on validation, and take the residuals on calibration.

    Args:
        config: the recipe.
        parts: the windows of each part.
        checkpoints: the folder in which an interrupted fit is kept.
        on_epoch: told of each epoch.
    """
    devices.prepare(config.seed, config.fit.mixed_precision)
    preprocessing = fit_preprocessing(config, parts["train"])
    how = config.model.how
    trained, history = _fit(
        config,
        Examples(parts["train"], preprocessing, how),
        Examples(parts["validation"], preprocessing, how),
        checkpoints / "recipe.npz",
        on_epoch,
    )
    held_back = parts["calibration"]
    past = held_back.inputs().target
    return trained, history, calibrate(held_back.targets(), trained.forecast(held_back), past, config.intervals)


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
    examples = Examples(windows, preprocessing, config.model.how)
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
        model = config.build_network()
        if weights is not None:
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
    for level, (low, high) in calibration.bands(past, LEVELS).items():
        metrics[f"coverage-{level}"] = coverage(actual, mean + low, mean + high)
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


def title(config: TrainConfig) -> str:
    """Return what a run of this configuration is called."""
    return f"{config.name} {config.model.cell} {config.model.topology}"
