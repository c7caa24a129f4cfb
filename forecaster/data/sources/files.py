"""Series from a CSV or Parquet file: columns mapped by configuration, or Yahoo's price format recognised."""

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

from forecaster.domain.config import Config
from forecaster.domain.errors import FileFormatError, UnreadableFile
from forecaster.domain.series import DS, UNIQUE_ID, Y

# what fits a machine's memory once it is read: of a compressed file, whose own size says little, and of a Parquet
_MOST_BYTES, _MOST_ROWS = 2**30, 100_000_000
_ADJUSTED = re.compile(r"(?:^|\.)adj(?:usted)?[. _]*close$")
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class Columns(Config):
    """Which of the file's columns are which; `unique_id: null` takes the file as one series of the file's name."""

    ds: str = DS
    y: str = Y
    unique_id: str | None = None


class FilesSource(Config):
    """A table of series in a file.

    Args:
        path: a `.csv` (also gzipped) or `.parquet` file.
        columns: the column names; when null, `unique_id, ds, y` or Yahoo's `Date, …, Close` are recognised.
        delimiter: what separates a CSV's columns.
        date_format: how a CSV spells its dates (strptime); when null, read from the first one.
    """

    source: Literal["files"] = "files"
    path: Path
    columns: Columns | None = None
    delimiter: str = ","
    date_format: str | None = None

    @property
    def place(self) -> str:
        """Return the file."""
        return str(self.path)

    def adjusted(self, exogenous: Sequence[str] = ()) -> tuple[str, ...]:
        """Return which of `y` and some columns are adjusted closes by their names, and so carry later dividends."""
        named = {Y: self.columns.y if self.columns else Y} | {name: name for name in exogenous}
        return tuple(name for name, column in named.items() if _ADJUSTED.search(column.lower()))

    def header(self) -> list[str]:
        """Return the names of the file's columns.

        Raises:
            FileFormatError: it cannot be read, or has no rows.
        """
        return [str(name) for name in self.table().columns]

    def load(self, exogenous: Sequence[str] = (), *, keep_bad_numbers: bool = False) -> pd.DataFrame:
        """Return the file as a long frame whose index is the row's line in the file (CSV) or its number (Parquet).

        Args:
            exogenous: further columns that are wanted, numbers.
            keep_bad_numbers: whether what is no number is left for whoever checks each series by itself, as NaN.

        Raises:
            FileFormatError: the file is missing, empty, without rows, or not a table; a mapped column is missing;
                a date or a number cannot be read.
        """
        return self.long_frame(self.table(), exogenous, keep_bad_numbers=keep_bad_numbers)

    def long_frame(
        self, table: pd.DataFrame, exogenous: Sequence[str] = (), *, keep_bad_numbers: bool = False
    ) -> pd.DataFrame:
        """Return the file's table, or some of its rows, as `load` does."""
        columns = self.columns or self._recognise(table)
        wanted = [columns.ds, columns.y, *([columns.unique_id] if columns.unique_id else []), *exogenous]
        missing = [name for name in wanted if name not in table.columns]
        if missing:
            raise FileFormatError(f"{self.path}: no column {missing}; it has {list(table.columns)}; set data.columns")
        ids = table[columns.unique_id] if columns.unique_id else self.path.name.split(".")[0]
        read = {UNIQUE_ID: ids, DS: self._times(table[columns.ds])}
        sources = {Y: columns.y} | {name: name for name in exogenous}
        read |= {name: self._numbers(table[column], keep_bad_numbers) for name, column in sources.items()}
        return pd.DataFrame(read, index=table.index)

    def table(self) -> pd.DataFrame:
        """Return the file's rows, a CSV's as text, with the index that `load` gives them.

        Raises:
            FileFormatError: it cannot be read, or has no rows.
        """
        _check_readable(self.path)
        table = self._read_parquet() if self.path.suffix == ".parquet" else self._read_csv()
        if table.empty:
            raise FileFormatError(f"{self.path}: holds a header and no rows; give a file with data")
        return table

    def _read_csv(self) -> pd.DataFrame:
        try:
            # as text, so that a bad number is reported as it stands in the file
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
            raise FileFormatError(f"{self.path}: the rows have more fields than the header; correct one of them")
        if len(table.columns) == 1:
            found = [f"{word} ({mark!r})" for mark, word in _DELIMITERS.items() if mark in table.columns[0]]
            hint = f"it looks separated by {found[0]}" if found else "a date and a number are needed"
            raise FileFormatError(f"{self.path}: one column only ({table.columns[0]!r}); {hint}; set data.delimiter")
        table.index = pd.RangeIndex(2, len(table) + 2, name="line")
        return table

    def _read_parquet(self) -> pd.DataFrame:
        try:
            n_rows = pq.read_metadata(self.path).num_rows
            if n_rows > _MOST_ROWS:
                raise UnreadableFile(f"{self.path}: holds {n_rows} rows, more than {_MOST_ROWS}; split it")
            return pd.read_parquet(self.path).reset_index(drop=True)
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{self.path}: cannot be read as Parquet ({error}); check data.path") from error

    def _recognise(self, table: pd.DataFrame) -> Columns:
        if {DS, Y} <= set(table.columns):
            return Columns(unique_id=UNIQUE_ID if UNIQUE_ID in table.columns else None)
        # Yahoo's header in any order
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
                # it warns of mixed offsets, which are refused below
                warnings.simplefilter("ignore", FutureWarning)
                times = pd.to_datetime(column, format=self.date_format)
            if not pd.api.types.is_datetime64_any_dtype(times):
                raise FileFormatError(
                    f"{self.path}: column '{column.name}' mixes offsets from UTC; write local times without, or UTC"
                )
            return times
        except (ValueError, OverflowError):
            times = pd.to_datetime(column, format=self.date_format, errors="coerce", utc=True)
        if times.isna().any():
            self._refuse(column, times.isna().to_numpy(), "a date")
        return times

    def _numbers(self, column: "pd.Series[Any]", keep_bad: bool) -> "pd.Series[Any]":
        if pd.api.types.is_numeric_dtype(column):
            return column
        numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
        if not keep_bad and not np.isfinite(numbers).all():
            self._refuse(column, ~np.isfinite(numbers.to_numpy()), "a finite number")
        return numbers

    def _refuse(self, column: "pd.Series[Any]", wrong: np.ndarray, wanted: str) -> None:
        position = int(np.flatnonzero(wrong)[0])
        raise FileFormatError(
            f"{self.path}, {column.index.name or 'row'} {column.index[position]}: column '{column.name}' holds "
            f"{column.iloc[position]!r}, not {wanted} ({wrong.sum()} such rows); correct or remove the row"
        )


def plain_names(path: Path, columns: Iterable[object], wanted: Container[str]) -> dict[str, str]:
    """Return a price file's own names of the columns that are wanted, by what they are in small letters.

    A prefix is left out, as in `AAPL.Close`; `Adj.Close`, `AdjClose` and `Adjusted Close` are `adj close`.

    Raises:
        FileFormatError: two columns are one and the same, such as those of two symbols.
    """
    found: dict[str, str] = {}
    for column in map(str, columns):
        # what reads a table numbers a name that is repeated
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
    """Refuse a file that is missing, or that can never be read.

    Raises:
        UnreadableFile: it is no plain file, truncated, damaged or too large. Reading it again cannot help.
        FileFormatError: it cannot be opened just now.
    """
    try:
        # a FIFO would keep us waiting
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
            if size > _MOST_BYTES:
                raise UnreadableFile(
                    f"{path}: holds more than {_MOST_BYTES // 2**30} GiB when decompressed; split it, or write Parquet"
                )
