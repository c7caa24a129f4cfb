"""The recipe: the configuration that determines a trained version, and the data preparation that it asks for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from forecaster.data.adjustment import cancels_factor
from forecaster.data.calendar_features import calendar_features, check_names
from forecaster.data.calendars import NAMES, get_calendar
from forecaster.data.long_frame import check_long_frame, read_static
from forecaster.data.padding import pad_series
from forecaster.data.preprocessing import HistColumns, Preprocessing
from forecaster.data.sources import AnySource
from forecaster.data.sources.files import FilesSource
from forecaster.data.transforms import Chain, LastSeason, Standardize, Transforms
from forecaster.data.windows import PARTS, SplitConfig, Windows, split_windows
from forecaster.domain.config import Config, short_for
from forecaster.domain.errors import ConfigError
from forecaster.domain.frequency import Step, parse
from forecaster.domain.series import DS, UNIQUE_ID, Series, Y
from forecaster.domain.sessions import Sessions
from forecaster.domain.static import CATEGORY, NO_STATIC, StaticColumns, StaticKind, StaticValue
from forecaster.domain.support import EVERYTHING, Support
from forecaster.models.auto import AnyModel, AutoModel
from forecaster.models.network import ModelConfig, build_model, shape_of
from forecaster.models.refusals import Design, find_refusals
from forecaster.models.shape import NetworkShape
from forecaster.training.fit_config import FitConfig
from forecaster.training.tracking import TrackingConfig


class StatColumn(Config):
    """A column that is constant within each series: a number, or the name of a category.

    Args:
        column: its name in the data.
        kind: how it is read; None for a number if all its values are numbers.
    """

    column: str
    kind: StaticKind | None = None


# `area` is short for `{column: area}`
StatColumns = tuple[Annotated[StatColumn, short_for("column")], ...]


class TrainConfig(Config):
    """The recipe: everything that determines a trained version.

    Args:
        name: the registered model that gets the version.
        freq: the frequency of the series, or the code of an exchange for one row per session; inferred when null.
        input_size: rows of input.
        horizon: rows of forecast.
        step_size: rows between the starts of two successive training windows.
        transforms: the target's transforms, in the order in which they are applied.
        support: the values that the target can take; the data are checked, and the forecasts respect it.
        missing: `refuse` or `mask`: whether `y` and `hist_exog` may have missing values, which the network then sees as
            missing.
        least_rows: with `missing: mask`, the rows that a series or a history needs; those before it are missing. Null
            for `input_size`.
        hist_exog: exogenous columns that are known up to the cutoff, each with its transforms.
        futr_exog: exogenous columns that are also known over the horizon; a forecast request must contain them.
        calendar_features: features of the timestamps, which are always known ahead.
        stat_exog: columns that are constant within each series; a forecast request must contain them.
        model: the network; `auto` leaves its parts open, and `transforms` and the keys of `fit` that are not set.
        seed: determines the initial weights, the order of windows and the dropout masks.
        intervals: the unit of the residuals: `constant`; `ewma`, the volatility of the window's changes; `returns`, the
            volatility of its returns; or `auto`, the unit with the best interval score on the residuals.
        folds: the number of networks that are fitted on fewer rows, so that their residuals on train and validation
            rows also size the intervals; with 0, only the calibration part sizes them.
        refit: whether the registered version is refitted on all rows, up to the latest observation.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    data: AnySource
    freq: str | None = None
    input_size: int = Field(ge=2, le=100_000)
    horizon: int = Field(ge=1, le=10_000)
    step_size: int = Field(1, ge=1, le=1_000_000)
    split: SplitConfig = SplitConfig()
    transforms: Transforms = ()
    support: Support = EVERYTHING
    missing: Literal["refuse", "mask"] = "refuse"
    least_rows: int | None = Field(None, ge=1, le=100_000)
    hist_exog: HistColumns = ()
    futr_exog: tuple[str, ...] = ()
    calendar_features: tuple[str, ...] = ()
    stat_exog: StatColumns = ()
    model: AnyModel = ModelConfig()
    fit: FitConfig = FitConfig()
    intervals: Literal["constant", "ewma", "returns", "auto"] = "constant"
    folds: int = Field(3, ge=0, le=20)
    refit: bool = True
    seed: int = Field(0, ge=0, lt=2**31)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_keys(cls, raw: Any) -> Any:
        """Read `fit.loss` of earlier releases as the loss of the point head."""
        fit = raw.get("fit") if isinstance(raw, dict) else None
        if not isinstance(fit, dict) or "loss" not in fit:
            return raw
        model = raw.get("model", {})
        if not isinstance(model, dict):
            return raw
        if "head" in model and model["head"] != "point":
            raise ValueError(
                "fit.loss and model.head: a head has its own loss; remove fit.loss, or set model.head.loss"
            )
        others = {name: value for name, value in fit.items() if name != "loss"}
        return raw | {"fit": others, "model": {**model, "head": {"kind": "point", "loss": fit["loss"]}}}

    @model_validator(mode="after")
    def _check_column_names(self) -> "TrainConfig":
        names = (*self.exogenous, *self.static)
        wrong = sorted({name for name in names if names.count(name) > 1 or name in (UNIQUE_ID, DS, Y)})
        if wrong:
            raise ValueError(
                f"hist_exog, futr_exog and stat_exog: {wrong} are listed twice, or are one of {UNIQUE_ID}, {DS}, {Y}; "
                "remove them"
            )
        return self

    @model_validator(mode="after")
    def _check_seasons(self) -> "TrainConfig":
        hist = [(f"{exog.column}.transforms", exog.transforms) for exog in self.hist_exog]
        for name, steps in [("transforms", self.transforms), *hist]:
            for step in steps:
                if isinstance(step, LastSeason) and step.season >= self.input_size:
                    raise ValueError(
                        f"{name} and input_size: last_season needs more than the {step.season} rows of a season; raise "
                        "input_size, or lower season"
                    )
        return self

    @model_validator(mode="after")
    def _check_minutes(self) -> "TrainConfig":
        if self.fit.minutes is not None and not self.is_open:
            raise ValueError("fit.minutes: is the time for choosing a recipe; set model: auto, or remove it")
        return self

    @model_validator(mode="after")
    def _check_design(self) -> "TrainConfig":
        if self.is_open:
            return self
        kinds = [step.kind for step in self.transforms]
        hist_kinds = [step.kind for exog in self.hist_exog for step in exog.transforms]
        is_stateful = self.fit.stateful is not None
        is_fitted = self.fit.epochs > 0
        design = Design(self.model, self.shape, kinds, hist_kinds, is_stateful, self.is_masked, is_fitted)
        refusals = find_refusals(design)
        if refusals:
            raise ValueError("; ".join(refusals))
        return self

    @model_validator(mode="after")
    def _check_least_rows(self) -> "TrainConfig":
        if self.least_rows is None:
            return self
        if self.least_rows > self.input_size:
            raise ValueError(f"least_rows and input_size: least_rows must be at most {self.input_size}")
        if self.n_padded and not self.is_masked:
            raise ValueError("least_rows and missing: rows before a series are missing values; set missing: mask")
        if self.n_padded and self.futr_exog:
            raise ValueError("least_rows and futr_exog: these are unknown before a series began; remove one of them")
        return self

    @model_validator(mode="after")
    def _check_returns(self) -> "TrainConfig":
        if self.is_open:
            return self
        if self.intervals == "returns" and not build_preprocessing(self).target.needs_positive:
            raise ValueError("intervals: returns needs a series above 0; put log first in transforms, or choose auto")
        return self

    @model_serializer(mode="wrap")
    def _leave_open(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what `model: auto` chooses, so that it is still open when the recipe is read again."""
        raw: dict[str, Any] = dump(self)
        if self.is_open:
            if "transforms" not in self.model_fields_set:
                raw.pop("transforms", None)
            if "fit" in raw:
                raw["fit"] = {key: value for key, value in raw["fit"].items() if key in self.fit.model_fields_set}
        return raw

    @property
    def is_open(self) -> bool:
        """Return whether `model: auto` leaves parts of the recipe to be chosen."""
        return isinstance(self.model, AutoModel)

    @property
    def is_masked(self) -> bool:
        """Return whether `y` and `hist_exog` may have missing values."""
        return self.missing == "mask"

    @property
    def n_padded(self) -> int:
        """Return the number of missing rows before each series, so that windows reach to before it began."""
        return 0 if self.least_rows is None else self.input_size - self.least_rows

    @property
    def exogenous(self) -> tuple[str, ...]:
        """Return the columns that the data must have besides the target."""
        return (*(exog.column for exog in self.hist_exog), *self.futr_exog)

    @property
    def static(self) -> tuple[str, ...]:
        """Return the columns that are constant within each series."""
        return tuple(stat.column for stat in self.stat_exog)

    def load(self) -> pd.DataFrame:
        """Return the data as a long frame with every column that the recipe takes, not yet checked against the recipe.

        Raises:
            ConfigError, DataError: as the data source raises them.
        """
        if isinstance(self.data, FilesSource):
            return self.data.load(self.exogenous, self.static, keep_blanks=self.is_masked)
        return self.data.load(self.exogenous, self.static)

    def with_cell(self, cell: str) -> "TrainConfig":
        """Return the same recipe with another cell."""
        return self.model_copy(update={"model": self.model.model_copy(update={"cell": cell})})

    def shape_with(self, columns: StaticColumns) -> NetworkShape:
        """Return the network's shape for data with these static columns."""
        return shape_of(self.model, build_preprocessing(self, columns), self.input_size, self.horizon)

    @property
    def shape(self) -> NetworkShape:
        """Return the network's shape, as if there were one series."""
        values: dict[str, list[StaticValue]] = {
            stat.column: ["" if stat.kind == CATEGORY else 0.0] for stat in self.stat_exog
        }
        return self.shape_with(StaticColumns.learn([""], values, is_embedded=self.model.inputs.series_embedding > 0))

    def build_network(self, shape: NetworkShape | None = None) -> Any:
        """Return the untrained network; None stands for the property `shape`.

        Raises:
            ConfigError: the network is yet to be chosen.
        """
        check_chosen(self)
        return build_model(self.model, shape or self.shape, self.seed)


def check_chosen(config: TrainConfig) -> None:
    """Raise ConfigError if `model: auto` leaves the recipe open."""
    if config.is_open:
        raise ConfigError(
            "model: auto is chosen by a training; train the recipe, and use config.yaml of its run, which has it"
        )


def prepare(config: TrainConfig, frame: pd.DataFrame, columns: StaticColumns | None = None) -> Series:
    """Check a long frame against the configuration and return its series, with calendar features.

    Args:
        config: the recipe.
        frame: the data.
        columns: the static columns of a network, whose positions are used; None learns them from the frame.

    Raises:
        DataError: the frame does not meet the configuration's requirements.
        ConfigError: a calendar feature is unknown, or needs an exchange's sessions.
    """
    sessions, where = get_sessions(config), config.data.location
    check_names(config.calendar_features, sessions)
    hist = [exog.column for exog in config.hist_exog]
    length = config.input_size - config.n_padded + config.horizon
    series = check_long_frame(
        frame, sessions or config.freq, length, where, hist, config.futr_exog, may_miss=config.is_masked
    )
    preprocessing = build_preprocessing(config)
    for unique_id, rows in series:
        for name, chain, column in zip(
            (Y, *hist), (preprocessing.target, *preprocessing.hist), series.values[rows].T, strict=True
        ):
            chain.check(column, f"{where}, series '{unique_id}', column {name}")
        config.support.check(series.values[rows, 0], f"{where}, series '{unique_id}', column {Y}")
    step = sessions or parse(series.freq)
    padded = pad_series(_with_static(config, frame, series, columns), config.n_padded, step)
    return _with_calendar(padded, config.calendar_features, step)


def _with_static(config: TrainConfig, frame: pd.DataFrame, series: Series, columns: StaticColumns | None) -> Series:
    is_embedded = config.model.inputs.series_embedding > 0
    if not config.stat_exog and not is_embedded:
        return series
    kinds = columns.kinds if columns else {stat.column: stat.kind for stat in config.stat_exog}
    values = read_static(frame, kinds, config.data.location)
    columns = columns or StaticColumns.learn(series.unique_ids, values, is_embedded=is_embedded)
    return replace(series, static=columns.encode_all(series.unique_ids, values), static_columns=columns)


def check_adjustment(config: TrainConfig) -> None:
    """Raise ConfigError if adjusted prices would reveal dividends that were paid after a window."""
    preprocessing, adjusted = build_preprocessing(config), config.data.adjusted(config.exogenous)
    chains = {Y: preprocessing.target}
    chains |= {exog.column: chain for exog, chain in zip(config.hist_exog, preprocessing.hist, strict=True)}
    for column in adjusted:
        if column in chains and cancels_factor(chains[column]):
            continue
        key = "transforms" if column == Y else f"column {column}: transforms"
        raise ConfigError(
            f"{key}: prices of {config.data.location} are adjusted, so a later dividend multiplies every earlier price "
            "by a factor, and the network would see it; put log and last_value first, which cancel it"
            + (", or use prices that are not adjusted" if config.data.source == "files" else "")
        )


def _with_calendar(series: Series, names: tuple[str, ...], step: Step) -> Series:
    if not names:
        return series
    features = calendar_features(names, series.timestamps, step)
    known = features if series.known is None else np.concatenate([series.known, features], axis=1)
    return replace(series, known=known)


def split(config: TrainConfig, series: Series, parts: Sequence[str] = PARTS) -> dict[str, Windows]:
    """Return the windows of each part.

    Raises:
        TooShortError: a part has no window.
    """
    return split_windows(series, config.split, config.input_size, config.horizon, config.step_size, parts)


def build_preprocessing(config: TrainConfig, columns: StaticColumns | None = None) -> Preprocessing:
    """Return the configuration's preprocessing of data with these static columns, not yet fitted."""
    columns = columns or NO_STATIC
    is_causal = config.model.decoder.answers_each_step
    return Preprocessing(
        target=Chain(steps=config.transforms, is_causal=is_causal, is_masked=config.is_masked),
        support=config.support,
        is_masked=config.is_masked,
        hist=tuple(
            Chain(steps=exog.transforms, is_causal=is_causal, is_masked=config.is_masked) for exog in config.hist_exog
        ),
        known=tuple(Standardize() for _ in (*config.futr_exog, *config.calendar_features)),
        numbers=tuple(Standardize() for _ in columns.numbers),
        sizes=columns.sizes,
    )


def get_sessions(config: TrainConfig) -> Sessions | None:
    """Return the sessions of the exchange that `freq` names; None if `freq` is a frequency."""
    return get_calendar(config.freq).as_frequency() if config.freq in NAMES else None


def title(config: TrainConfig) -> str:
    """Return the name of a run of this configuration."""
    return f"{config.name} {config.model.cell} {config.model.topology}"
