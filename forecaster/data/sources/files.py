"""Series from a CSV or Parquet file, with configured columns or in Yahoo's price format."""

import gzip
import re
import warnings
import zlib
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic import model_validator

from forecaster.domain.config import Config
from forecaster.domain.errors import FileFormatError, UnreadableFile
from forecaster.domain.series import DS, UNIQUE_ID, Y

# limits of memory: decompressed bytes of a gzip file, and rows of a Parquet file
_MAX_BYTES, _MAX_ROWS = 2**30, 100_000_000
_ADJUSTED = re.compile(r"(?:^|\.)adj(?:usted)?[. _]*close$")
# the texts of missing values, in any program
_BLANKS = ("", "NA", "NaN", "nan", "null", "None")
_DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


class Columns(Config):
    """The file's column names; `unique_id: null` reads the file as one series with the file's name."""

    ds: str = DS
    y: str = Y
    unique_id: str | None = None


class FilesSource(Config):
    """A table of series in a file.

    Args:
        path: a `.csv` (also gzipped) or `.parquet` file.
        columns: the column names; null to recognize `unique_id, ds, y` or Yahoo's `Date, …, Close`.
        delimiter: the delimiter of a CSV file.
        date_format: the date format of a CSV file (strptime); null to infer it from the first date.
        wide: whether each column but `columns.ds` and the exogenous columns is a series of its own, named after the
            column; the exogenous columns then belong to every series.
    """

    source: Literal["files"] = "files"
    path: Path
    columns: Columns | None = None
    delimiter: str = ","
    date_format: str | None = None
    wide: bool = False

    @model_validator(mode="after")
    def _check_wide(self) -> "FilesSource":
        if self.wide and self.columns and self.columns != Columns(ds=self.columns.ds):
            raise ValueError("wide and columns: with wide, every column is a series; set columns.ds only")
        return self

    @property
    def location(self) -> str:
        """Return the file's path."""
        return str(self.path)

    def adjusted(self, exogenous: Sequence[str] = ()) -> tuple[str, ...]:
        """Return those of `y` and `exogenous` that are adjusted closes by name, and so leak later dividends."""
        named = {name: [name] for name in exogenous}
        named[Y] = self.header() if self.wide else [self.columns.y if self.columns else Y]
        return tuple(
            name for name in (Y, *exogenous) if any(_ADJUSTED.search(column.lower()) for column in named[name])
        )

    def header(self) -> list[str]:
        """Return the names of the file's columns.

        Raises:
            FileFormatError: the file cannot be read, or has no rows.
        """
        return [str(name) for name in self.table().columns]

    def load(
        self,
        exogenous: Sequence[str] = (),
        stat_exog: Sequence[str] = (),
        *,
        keep_bad_numbers: bool = False,
        keep_blanks: bool = False,
    ) -> pd.DataFrame:
        """Return the file as a long frame, indexed by line number (CSV) or row number (Parquet).

        Args:
            exogenous: further numeric columns to read.
            stat_exog: further columns to read as they are.
            keep_bad_numbers: whether to return invalid numbers as NaN instead of raising an error.
            keep_blanks: whether to return empty cells as NaN; other invalid numbers are then kept as infinity.

        Raises:
            FileFormatError: the file is missing, empty, without rows, or not a table; a mapped column is missing;
                a date or a number is invalid.
        """
        return self.long_frame(
            self.table(), exogenous, stat_exog, keep_bad_numbers=keep_bad_numbers, keep_blanks=keep_blanks
        )

    def long_frame(
        self,
        table: pd.DataFrame,
        exogenous: Sequence[str] = (),
        stat_exog: Sequence[str] = (),
        *,
        keep_bad_numbers: bool = False,
        keep_blanks: bool = False,
    ) -> pd.DataFrame:
        """Convert a table from `table()`, or some of its rows, to a long frame; see `load`."""
        if self.wide:
            if stat_exog:
                raise FileFormatError(
                    f"{self.path}: a wide file has no stat_exog {list(stat_exog)}; give one row per series and time"
                )
            return self._stack(table, exogenous, keep_bad_numbers, keep_blanks)
        columns = self.columns or self._recognise(table)
        unique_id = [columns.unique_id] if columns.unique_id else []
        self._check_columns(table, [columns.ds, columns.y, *unique_id, *exogenous, *stat_exog])
        ids = table[columns.unique_id] if columns.unique_id else self.path.name.split(".")[0]
        read = {UNIQUE_ID: ids, DS: self._times(table[columns.ds])}
        sources = {Y: columns.y} | {name: name for name in exogenous}
        read |= {name: self._numbers(table[column], keep_bad_numbers, keep_blanks) for name, column in sources.items()}
        read |= {name: table[name] for name in stat_exog}
        return pd.DataFrame(read, index=table.index)

    def _stack(self, table: pd.DataFrame, exogenous: Sequence[str], keep_bad: bool, keep_blanks: bool) -> pd.DataFrame:
        """Return the columns of a wide table below each other."""
        ds = (self.columns or Columns()).ds
        self._check_columns(table, [ds, *exogenous])
        names = [name for name in table.columns if name not in (ds, *exogenous)]
        if not names:
            raise FileFormatError(f"{self.path}: has no column besides {[ds, *exogenous]}; add one for each series")

        def numbers(name: str) -> "pd.Series[Any]":
            return self._numbers(table[name], keep_bad, keep_blanks)

        shared = {DS: self._times(table[ds])} | {name: numbers(name) for name in exogenous}
        return pd.concat(
            pd.DataFrame({UNIQUE_ID: str(name), DS: shared[DS], Y: numbers(name)} | shared, index=table.index)
            for name in names
        )

    def _check_columns(self, table: pd.DataFrame, wanted: Sequence[str]) -> None:
        missing = [name for name in wanted if name not in table.columns]
        if missing:
            raise FileFormatError(
                f"{self.path}: missing columns {missing}; found {list(table.columns)}; set data.columns"
            )

    def table(self) -> pd.DataFrame:
        """Return the file's rows, those of a CSV file as text, with the index of `load`.

        Raises:
            FileFormatError: the file cannot be read, or has no rows.
        """
        _check_readable(self.path)
        table = self._read_parquet() if self.path.suffix == ".parquet" else self._read_csv()
        if table.empty:
            raise FileFormatError(f"{self.path}: has a header but no rows; give a file with data")
        return table

    def _read_csv(self) -> pd.DataFrame:
        try:
            # read as text, so that errors show invalid numbers as in the file
            table = pd.read_csv(self.path, sep=self.delimiter, dtype=str, keep_default_na=False, skip_blank_lines=False)
        except pd.errors.EmptyDataError as error:
            raise FileFormatError(f"{self.path}: is empty; give a file with a header and rows") from error
        except OSError as error:
            raise FileFormatError(f"{self.path}: cannot be read ({error}); check data.path") from error
        except UnicodeDecodeError as error:
            raise UnreadableFile(f"{self.path}: cannot be read ({error}); write it as UTF-8") from error
        except pd.errors.ParserError as error:
            raise FileFormatError(f"{self.path}: not a table ({error}); check data.delimiter") from error
        if not isinstance(table.index, pd.RangeIndex):
            raise FileFormatError(f"{self.path}: the rows have more fields than the header; correct the header")
        if len(table.columns) == 1:
            found = [f"{name} ({mark!r})" for mark, name in _DELIMITERS.items() if mark in table.columns[0]]
            hint = f"the delimiter may be {found[0]}" if found else "a date and a number column are needed"
            raise FileFormatError(
                f"{self.path}: has only one column ({table.columns[0]!r}); {hint}; set data.delimiter"
            )
        table.index = pd.RangeIndex(2, len(table) + 2, name="line")
        return table

    def _read_parquet(self) -> pd.DataFrame:
        try:
            n_rows = pq.read_metadata(self.path).num_rows
            if n_rows > _MAX_ROWS:
                raise UnreadableFile(f"{self.path}: has {n_rows} rows, the maximum is {_MAX_ROWS}; split the file")
            return pd.read_parquet(self.path).reset_index(drop=True)
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{self.path}: cannot be read as Parquet ({error}); check data.path") from error

    def _recognise(self, table: pd.DataFrame) -> Columns:
        if {DS, Y} <= set(table.columns):
            return Columns(unique_id=UNIQUE_ID if UNIQUE_ID in table.columns else None)
        # Yahoo's header, with columns in any order
        plain = plain_names(self.path, table.columns, {"date", "close"})
        if len(plain) == 2:
            return Columns(ds=plain["date"], y=plain["close"])
        raise FileFormatError(
            f"{self.path}: columns {list(table.columns)} are neither unique_id, ds, y nor Yahoo's Date, …, Close; "
            "set data.columns to map them"
        )

    def _times(self, column: "pd.Series[Any]") -> "pd.Series[Any]":
        if pd.api.types.is_datetime64_any_dtype(column):
            return column
        try:
            with warnings.catch_warnings():
                # mixed offsets cause this warning, and an error below
                warnings.simplefilter("ignore", FutureWarning)
                times = pd.to_datetime(column, format=self.date_format)
            if not pd.api.types.is_datetime64_any_dtype(times):
                raise FileFormatError(
                    f"{self.path}: column '{column.name}' mixes UTC offsets; write UTC, or local times without offsets"
                )
            return times
        except (ValueError, OverflowError):
            times = pd.to_datetime(column, format=self.date_format, errors="coerce", utc=True)
        if times.isna().any():
            self._refuse(column, times.isna().to_numpy(), "a date")
        return times

    def _numbers(self, column: "pd.Series[Any]", keep_bad: bool, keep_blanks: bool) -> "pd.Series[Any]":
        if pd.api.types.is_numeric_dtype(column):
            return column
        numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
        is_bad = ~np.isfinite(numbers.to_numpy())
        if keep_blanks:
            is_bad &= ~(column.isna() | column.isin(_BLANKS)).to_numpy()
        if is_bad.any() and not keep_bad:
            self._refuse(column, is_bad, "a finite number")
        # distinguished from an empty cell, which is NaN
        return numbers.mask(is_bad, np.inf) if keep_blanks else numbers

    def _refuse(self, column: "pd.Series[Any]", wrong: np.ndarray, wanted: str) -> None:
        position = int(np.flatnonzero(wrong)[0])
        raise FileFormatError(
            f"{self.path}, {column.index.name or 'row'} {column.index[position]}: column '{column.name}' holds "
            f"{column.iloc[position]!r}, not {wanted} ({wrong.sum()} such rows); correct or remove the row"
        )


def plain_names(path: Path, columns: Iterable[object], wanted: Container[str]) -> dict[str, str]:
    """Map normalized column names of a price file, such as `close`, to the names in the file.

    Names are normalized to lower case without a prefix such as `AAPL.`; `Adj.Close`, `AdjClose` and `Adjusted Close`
    become `adj close`.

    Args:
        path: the file, for error messages.
        columns: the names in the file.
        wanted: the normalized names to return.

    Raises:
        FileFormatError: two columns have the same normalized name, such as the closes of two symbols.
    """
    found: dict[str, str] = {}
    for column in map(str, columns):
        # pandas numbers repeated names
        name = re.sub(r"\.\d+$", "", column.lower())
        plain = "adj close" if _ADJUSTED.search(name) else name.rpartition(".")[2]
        if plain not in wanted:
            continue
        if plain in found:
            raise FileFormatError(
                f"{path}: columns '{found[plain]}' and '{column}' are both {plain}; remove or rename one of them"
            )
        found[plain] = column
    return found


def _check_readable(path: Path) -> None:
    """Check that a file is a plain file and, if compressed, intact.

    Raises:
        UnreadableFile: the file is not a plain file, or it is truncated, damaged or too large; a retry cannot help.
        FileFormatError: the file cannot be opened now.
    """
    try:
        # reading a FIFO would block
        if path.exists() and not path.is_file():
            raise UnreadableFile(f"{path}: cannot be read (it is not a plain file); check data.path")
        if path.suffix == ".gz":
            _check_gzip(path)
    except (gzip.BadGzipFile, EOFError, ValueError, zlib.error) as error:
        raise UnreadableFile(f"{path}: cannot be read ({error}); check data.path, or write the file again") from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error}); check data.path") from error


def _check_gzip(path: Path) -> None:
    size = 0
    with gzip.open(path) as file:
        while piece := file.read(2**20):
            size += len(piece)
            if size > _MAX_BYTES:
                raise UnreadableFile(
                    f"{path}: exceeds {_MAX_BYTES // 2**30} GiB when decompressed; split it, or write Parquet"
                )
