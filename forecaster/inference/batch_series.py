"""The series of a batch, from a file or from the tails of the bar store. Each series is read on its own."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from forecaster.data.bar_features import FEATURES
from forecaster.data.long_frame import group_rows
from forecaster.data.sources.files import Columns, FilesSource
from forecaster.data.tails import read_tail, stored_symbols
from forecaster.domain.config import Config
from forecaster.domain.errors import RequestError, SeriesError
from forecaster.domain.series import DS, UNIQUE_ID, Y
from forecaster.registry.predictor import ArrayPredictor


def service_default(setting: str, default: object, *, ge: float | None = None, le: float | None = None) -> Any:
    """Return a field whose default is a setting of the service, read from its `FORECASTER_*` variable.

    Args:
        setting: the name of the setting.
        default: the setting's default.
        ge: the minimum.
        le: the maximum.
    """

    def from_variable() -> object:
        return os.environ.get(f"FORECASTER_{setting.upper()}") or default

    return Field(default_factory=from_variable, validate_default=True, ge=ge, le=le)


class TailsSource(Config):
    """Symbols of the bar store, read as the service reads them.

    Args:
        symbols: the symbols; null for all stored symbols.
        folder: the folder of the bar store. Default: the service's setting.
        stale_after_hours: hours after the end of a session until stored bars without it are stale. Default: the
            service's setting.
    """

    source: Literal["store"] = "store"
    symbols: tuple[str, ...] | None = Field(None, min_length=1)
    folder: Path = service_default("bars_dir", "mlruns/bars")
    stale_after_hours: float = service_default("stale_after_hours", 24, ge=0, le=1e7)

    @property
    def location(self) -> str:
        """Return the store's folder."""
        return str(self.folder)

    @field_validator("symbols")
    @classmethod
    def _are_unique(cls, symbols: tuple[str, ...] | None) -> tuple[str, ...] | None:
        repeated = sorted({symbol for symbol in symbols or () if (symbols or ()).count(symbol) > 1})
        if repeated:
            raise ValueError(f"{repeated} are repeated; list each symbol once")
        return symbols


BatchSource = Annotated[FilesSource | TailsSource, Field(discriminator="source")]


class Histories(Protocol):
    """Series that are read by number."""

    @property
    def names(self) -> Sequence[str]:
        """Return the name of each series."""

    def read(self, number: int) -> pd.DataFrame:
        """Return a series as a long frame, with the columns that the model takes.

        Raises:
            DataError: the series cannot be read.
        """


def open_histories(source: FilesSource | TailsSource, predictor: ArrayPredictor) -> Histories:
    """Return the series of a source.

    Raises:
        FileFormatError, SeriesError: the file is not a table of series, or a row names no series.
        RequestError: nothing is stored, or the model takes columns that the store lacks.
    """
    return _FileSeries(source, predictor) if isinstance(source, FilesSource) else _StoredSeries(source, predictor)


def read_futr_table(source: FilesSource | None, predictor: ArrayPredictor) -> pd.DataFrame | None:
    """Return the table `unique_id, ds` and the model's `futr_exog`; None if the model takes no `futr_exog`.

    Raises:
        RequestError: the model takes `futr_exog` and there is no file, or there is a file and the model takes none.
        FileFormatError: the file cannot be read as this table.
    """
    names = tuple(predictor.manifest.futr_exog)
    if bool(names) != (source is not None):
        if names:
            raise RequestError(f"futr: missing; set a file with {list(names)} for the forecast steps")
        raise RequestError("futr: the model takes no futr_exog; remove this key")
    if source is None:
        return None
    columns = source.columns or Columns(unique_id=UNIQUE_ID)
    first = columns.model_copy(update={"y": names[0]})
    table = source.model_copy(update={"columns": first}).load(names[1:], keep_bad_numbers=True)
    return table.rename(columns={Y: names[0]})


class _FileSeries:
    """The series of a file, which is read as a whole. Rows of different series may be mixed."""

    def __init__(self, source: FilesSource, predictor: ArrayPredictor) -> None:
        manifest = predictor.manifest
        exogenous, stat_exog = (*manifest.hist_exog, *manifest.futr_exog), tuple(manifest.stat_exog)
        self._frame = source.load(exogenous, stat_exog, keep_bad_numbers=True, keep_blanks=manifest.is_masked)
        ids = self._frame[UNIQUE_ID]
        missing = np.flatnonzero((ids.isna() | (ids == "")).to_numpy())
        if len(missing):
            raise SeriesError(
                f"{source.path}, {self._frame.index.name or 'row'} {self._frame.index[missing[0]]}: unique_id is "
                f"missing ({len(missing)} such rows); name the series"
            )
        self._frame[UNIQUE_ID] = ids.astype(str)
        self._groups = group_rows(self._frame[UNIQUE_ID])
        self.names: Sequence[str] = self._groups.unique_ids

    def read(self, number: int) -> pd.DataFrame:
        bounds = self._groups.bounds
        return self._frame.iloc[self._groups.order[bounds[number] : bounds[number + 1]]]


class _StoredSeries:
    """The series of the bar store. Only one tail is in memory at a time."""

    def __init__(self, source: TailsSource, predictor: ArrayPredictor) -> None:
        manifest = predictor.manifest
        missing = [
            *(name for name in manifest.hist_exog if name not in FEATURES),
            *manifest.futr_exog,
            *manifest.stat_exog,
        ]
        if missing:
            raise RequestError(f"data: the bar store lacks the model's columns {missing}; set a file")
        self.names: Sequence[str] = source.symbols or stored_symbols(source.folder)
        if not self.names:
            raise RequestError(f"data: nothing is stored in {source.folder}; run pipelines.fetch")
        self._folder, self._patience = source.folder, timedelta(hours=source.stale_after_hours)
        self._predictor, self._now = predictor, datetime.now(UTC)

    def read(self, number: int) -> pd.DataFrame:
        name, manifest = self.names[number], self._predictor.manifest
        tail = read_tail(self._folder, name)
        tail.check_usable(self._now, self._patience)
        # like the service, ignore earlier rows
        last = slice(-manifest.input_size, None)
        columns = dict(zip((Y, *manifest.hist_exog), tail.values(tuple(manifest.hist_exog))[last].T, strict=True))
        return pd.DataFrame({UNIQUE_ID: name, DS: tail.days[last].astype("M8[us]"), **columns})
