"""The recipe: all that decides a trained version, and what it asks of the data."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from forecaster.data.adjustment import cancels_factor
from forecaster.data.calendar_features import calendar_features, check_names
from forecaster.data.calendars import NAMES, get_calendar
from forecaster.data.long_frame import check_long_frame
from forecaster.data.preprocessing import HistColumns, Preprocessing
from forecaster.data.sources import AnySource
from forecaster.data.transforms import Chain, Standardize, Transforms
from forecaster.data.windows import PARTS, SplitConfig, Windows, split_windows
from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError
from forecaster.domain.frequency import Step, parse
from forecaster.domain.series import DS, UNIQUE_ID, Series, Y
from forecaster.domain.sessions import Sessions
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.topologies import TOPOLOGIES
from forecaster.training.fit import FitConfig
from forecaster.training.tracking import TrackingConfig


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
        intervals: the unit in which residuals are compared: `constant`; the volatility of the window's changes, `ewma`,
            or of its returns, `returns`; or `auto`, the one with the best interval score on the residuals.
        folds: how many networks are fitted on less, so that their residuals on train and validation rows size the
            intervals beside the calibration part's; 0 for its alone.
        refit: whether the registered version is fitted once more, through the latest observation.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    data: AnySource
    freq: str | None = None
    input_size: int = Field(ge=2, le=100_000)
    horizon: int = Field(ge=1, le=10_000)
    step_size: int = Field(1, ge=1, le=1_000_000)
    split: SplitConfig = SplitConfig()
    transforms: Transforms = ()
    hist_exog: HistColumns = ()
    futr_exog: tuple[str, ...] = ()
    calendar_features: tuple[str, ...] = ()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    intervals: Literal["constant", "ewma", "returns", "auto"] = "constant"
    folds: int = Field(3, ge=0, le=20)
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

    @model_validator(mode="after")
    def _returns_are_defined(self) -> "TrainConfig":
        if self.intervals == "returns" and not unfitted(self).target.needs_positive:
            raise ValueError("intervals: returns needs a series above 0; begin transforms with log, or choose auto")
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


def check_adjustment(config: TrainConfig) -> None:
    """Raise ConfigError where adjusted prices would tell of dividends that were paid after a window."""
    preprocessing, adjusted = unfitted(config), config.data.adjusted(config.exogenous)
    chains = {Y: preprocessing.target}
    chains |= {one.column: chain for one, chain in zip(config.hist_exog, preprocessing.hist, strict=True)}
    for column in adjusted:
        if column in chains and cancels_factor(chains[column]):
            continue
        key = "transforms" if column == Y else f"column {column}: transforms"
        raise ConfigError(
            f"{key}: prices of {config.data.place} are adjusted, so a later dividend multiplies every earlier price by "
            "a factor, and the network would see it; put log and last_value first, which cancel it"
            + (", or use prices that are not adjusted" if config.data.source == "files" else "")
        )


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
    is_causal = TOPOLOGIES[config.model.topology].answers_each_step
    return Preprocessing(
        target=Chain(steps=config.transforms, is_causal=is_causal),
        hist=tuple(Chain(steps=one.transforms, is_causal=is_causal) for one in config.hist_exog),
        known=tuple(Standardize() for _ in (*config.futr_exog, *config.calendar_features)),
    )


def sessions_of(config: TrainConfig) -> Sessions | None:
    """Return the sessions of the exchange that `freq` names, None where it is a frequency."""
    return get_calendar(config.freq).as_frequency() if config.freq in NAMES else None


def title(config: TrainConfig) -> str:
    """Return what a run of this configuration is called."""
    return f"{config.name} {config.model.cell} {config.model.topology}"
