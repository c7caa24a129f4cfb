"""The series of a batch: of a table in a file, or of the bar store's tails; each one is read, and fails, by itself."""

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


def as_the_service(setting: str, default: object, *, ge: float | None = None, le: float | None = None) -> Any:
    """Return a field that is as the service is set, by `FORECASTER_*` variables, where the configuration says nothing.

    Args:
        setting: the field of the service's settings.
        default: that field's default.
        ge: the least value.
        le: the largest.
    """

    def from_variable() -> object:
        return os.environ.get(f"FORECASTER_{setting.upper()}") or default

    return Field(default_factory=from_variable, validate_default=True, ge=ge, le=le)


class TailsSource(Config):
    """Stored symbols, as the service reads them.

    Args:
        symbols: which; every stored one when null.
        folder: the bar store's; the service's when not given.
        stale_after_hours: how long a session may have ended and not be stored, likewise.
    """

    source: Literal["store"] = "store"
    symbols: tuple[str, ...] | None = Field(None, min_length=1)
    folder: Path = as_the_service("bars_dir", "mlruns/bars")
    stale_after_hours: float = as_the_service("stale_after_hours", 24, ge=0, le=1e7)

    @property
    def place(self) -> str:
        """Return the store's folder."""
        return str(self.folder)

    @field_validator("symbols")
    @classmethod
    def _are_named_once(cls, symbols: tuple[str, ...] | None) -> tuple[str, ...] | None:
        repeated = sorted({symbol for symbol in symbols or () if (symbols or ()).count(symbol) > 1})
        if repeated:
            raise ValueError(f"{repeated} are named twice")
        return symbols


BatchSource = Annotated[FilesSource | TailsSource, Field(discriminator="source")]


class Histories(Protocol):
    """Series by number."""

    @property
    def names(self) -> Sequence[str]:
        """Return what each is called."""

    def read(self, number: int) -> pd.DataFrame:
        """Return a series as a long frame, with the columns that the model takes.

        Raises:
            DataError: it cannot be had.
        """


def open_histories(source: FilesSource | TailsSource, predictor: ArrayPredictor) -> Histories:
    """Return the series of a source.

    Raises:
        FileFormatError, SeriesError: the file is no table of series, or a row is of none.
        RequestError: nothing is stored, or the model takes columns that the store does not have.
    """
    return _FileSeries(source, predictor) if isinstance(source, FilesSource) else _StoredSeries(source, predictor)


def read_ahead(source: FilesSource | None, predictor: ArrayPredictor) -> pd.DataFrame | None:
    """Return the table of what is known ahead, `unique_id, ds` and the model's `futr_exog`; None where it takes none.

    Raises:
        RequestError: there is none and the model takes some, or the other way round.
        FileFormatError: it is no such table.
    """
    names = tuple(predictor.manifest.futr_exog)
    if bool(names) != (source is not None):
        is_missing = f"the model supports {list(names)} ahead; set the file that has them for the steps to come"
        raise RequestError(f"futr: {is_missing if names else 'the model takes nothing that is known ahead; remove it'}")
    if source is None:
        return None
    columns = source.columns or Columns(unique_id=UNIQUE_ID)
    first = columns.model_copy(update={"y": names[0]})
    table = source.model_copy(update={"columns": first}).load(names[1:], keep_bad_numbers=True)
    return table.rename(columns={Y: names[0]})


class _FileSeries:
    """A file's; it is held whole, and its series may be interleaved."""

    def __init__(self, source: FilesSource, predictor: ArrayPredictor) -> None:
        manifest = predictor.manifest
        self._frame = source.load((*manifest.hist_exog, *manifest.futr_exog), keep_bad_numbers=True)
        ids = self._frame[UNIQUE_ID]
        nameless = np.flatnonzero((ids.isna() | (ids == "")).to_numpy())
        if len(nameless):
            raise SeriesError(
                f"{source.path}, {self._frame.index.name or 'row'} {self._frame.index[nameless[0]]}: unique_id is "
                f"missing ({len(nameless)} such rows); name the series"
            )
        self._frame[UNIQUE_ID] = ids.astype(str)
        self._groups = group_rows(self._frame[UNIQUE_ID])
        self.names: Sequence[str] = self._groups.unique_ids

    def read(self, number: int) -> pd.DataFrame:
        bounds = self._groups.bounds
        return self._frame.iloc[self._groups.order[bounds[number] : bounds[number + 1]]]


class _StoredSeries:
    """The store's; one tail at a time is held."""

    def __init__(self, source: TailsSource, predictor: ArrayPredictor) -> None:
        manifest = predictor.manifest
        absent = [*(name for name in manifest.hist_exog if name not in FEATURES), *manifest.futr_exog]
        if absent:
            raise RequestError(f"data: the model takes {absent}, which the store does not have; give a file")
        self.names: Sequence[str] = source.symbols or stored_symbols(source.folder)
        if not self.names:
            raise RequestError(f"data: nothing is stored in {source.folder}; run pipelines.fetch")
        self._folder, self._patience = source.folder, timedelta(hours=source.stale_after_hours)
        self._predictor, self._now = predictor, datetime.now(UTC)

    def read(self, number: int) -> pd.DataFrame:
        name, manifest = self.names[number], self._predictor.manifest
        tail = read_tail(self._folder, name)
        tail.check_usable(self._now, self._patience)
        # what lies before the inputs is not looked at, as the service does not
        last = slice(-manifest.input_size, None)
        columns = dict(zip((Y, *manifest.hist_exog), tail.values(tuple(manifest.hist_exog))[last].T, strict=True))
        return pd.DataFrame({UNIQUE_ID: name, DS: tail.days[last].astype("M8[us]"), **columns})
