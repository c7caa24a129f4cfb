"""Series from files: recognized formats, and errors for bad files."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecaster.data.sources.files import Columns, FilesSource
from forecaster.domain.errors import FileFormatError
from tests.conftest import REAL_DATA, needs_real_data

YAHOO = {
    "as downloaded": "Date,Open,High,Low,Close,Adj Close\n2026-01-02,1,2,0.5,1.5,1.4\n2026-01-05,1,2,0.5,1.75,1.6\n",
    "other order, slashes": "Date,Close,High,Low,Open,Volume\n2026/1/2,1.5,2,1,1,10\n2026/1/5,1.75,2,1,1,9\n",
    "with the symbol": "Date,SPY.Open,SPY.Close\n2026-01-02,1,1.5\n2026-01-05,1,1.75\n",
    "capitals, byte order mark": "\ufeffDATE,CLOSE\n2026-01-02,1.5\n2026-01-05,1.75\n",
    "windows line ends": "date,close\r\n2026-01-02,1.5\r\n2026-01-05,1.75\r\n",
}


@pytest.mark.parametrize("text", YAHOO.values(), ids=YAHOO.keys())
def test_load_recognizes_yahoos_format(tmp_path: Path, text: str) -> None:
    path = tmp_path / "SPY.csv"
    path.write_text(text, encoding="utf-8", newline="")
    frame = FilesSource(path=path).load()
    assert frame["unique_id"].tolist() == ["SPY", "SPY"]
    assert frame["ds"].tolist() == [pd.Timestamp("2026-01-02"), pd.Timestamp("2026-01-05")]
    assert frame["y"].tolist() == [1.5, 1.75]
    assert frame.index.tolist() == [2, 3]


def _long() -> pd.DataFrame:
    times = pd.date_range("2026-01-01", periods=5, freq="h", tz="UTC")
    parts = [pd.DataFrame({"unique_id": name, "ds": times, "y": np.arange(5) / 3}) for name in ("a", "b")]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("name", ["long.csv", "long.csv.gz", "long.parquet"])
def test_load_returns_the_written_long_frame(tmp_path: Path, name: str) -> None:
    frame, path = _long(), tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    read = FilesSource(path=path).load()
    pd.testing.assert_frame_equal(read.reset_index(drop=True), frame, check_dtype=False)


def test_load_supports_custom_columns_delimiter_and_date_format(tmp_path: Path) -> None:
    path = tmp_path / "meter.csv"
    path.write_text("when;what;how much\n31.12.2025;a;1\n01.01.2026;a;2\n")
    source = FilesSource(
        path=path, delimiter=";", date_format="%d.%m.%Y", columns=Columns(ds="when", y="how much", unique_id="what")
    )
    assert source.load()["ds"].tolist() == [pd.Timestamp("2025-12-31"), pd.Timestamp("2026-01-01")]


ROWS = "ds,y\n2026-01-01,1\n2026-01-02,2\n2026-01-03,3\n"
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "empty": ("", {}, "is empty; give a file"),
    "header only": ("ds,y\n", {}, "has a header but no rows"),
    "wrong delimiter": (ROWS.replace(",", ";"), {}, r"only one column \('ds;y'\); the delimiter may be a semicolon"),
    "one column": ("y\n1\n", {}, "only one column"),
    "unknown columns": ("when,what\n2026-01-01,1\n", {}, "neither unique_id, ds, y nor Yahoo's"),
    "mapped column missing": (
        ROWS,
        {"columns": {"ds": "date", "y": "y"}},
        r"missing columns \['date'\]; found \['ds', 'y'\]",
    ),
    "text in y": (ROWS.replace(",2\n", ",two\n"), {}, "line 3: column 'y' holds 'two', not a finite number"),
    "empty number": (ROWS.replace(",2\n", ",\n"), {}, "line 3: column 'y' holds '', not a finite number"),
    "NaN": (ROWS.replace(",2\n", ",NaN\n"), {}, "line 3: column 'y' holds 'NaN'"),
    "infinity": (ROWS.replace(",2\n", ",inf\n"), {}, "line 3: column 'y' holds 'inf'"),
    "1e999": (ROWS.replace(",2\n", ",1e999\n"), {}, "line 3: column 'y' holds '1e999'"),
    "word for a date": (ROWS.replace("2026-01-02", "soon"), {}, "line 3: column 'ds' holds 'soon', not a date"),
    "impossible date": (ROWS.replace("2026-01-02", "2026-02-30"), {}, "line 3: column 'ds' holds '2026-02-30'"),
    "blank line": (ROWS.replace("2026-01-02,2", ""), {}, "line 3: column 'y' holds ''"),
    "ragged": (ROWS.replace(",2\n", ",2,2,2\n"), {}, "not a table .*line 3"),
    "more fields than the header": ("ds,y\n2026-01-01,1,2\n2026-01-02,2,3\n", {}, "more fields than the header"),
    "mixed offsets": (
        "ds,y\n2026-03-08T00:00:00-05:00,1\n2026-03-09T00:00:00-04:00,2\n",
        {},
        "column 'ds' mixes UTC offsets",
    ),
    "two symbols": (
        "Date,A.Close,B.Close\n2026-01-01,1,2\n",
        {},
        "columns 'A.Close' and 'B.Close' are both close; remove or rename",
    ),
    "a column twice": ("Date,Close,Close\n2026-01-01,1,2\n", {}, "columns 'Close' and 'Close.1' are both close"),
    "not text": ("\x00\x01PK,\x03\n\x00\x00,\x00\n", {}, "neither unique_id"),
}


@pytest.mark.parametrize(("text", "settings", "message"), BAD.values(), ids=BAD.keys())
def test_error_names_the_file_line_and_column(
    tmp_path: Path, text: str, settings: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message) as error:
        FilesSource(path=path, **settings).load()
    assert "bad.csv" in str(error.value)


def test_missing_and_mislabeled_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.parquet").write_text(ROWS)
    (tmp_path / "latin.csv").write_bytes("ds,y\n2026-01-01,é\n".encode("latin-1"))
    (tmp_path / "folder.csv").mkdir()
    for name in ("absent.csv", "absent.parquet", "fake.parquet", "latin.csv", "folder.csv"):
        with pytest.raises(FileFormatError, match=f"{name}: cannot be read"):
            FilesSource(path=tmp_path / name).load()


def _write_gzip(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(gzip.compress(("ds,y\n" + "2026-01-01,1\n" * 5000).encode())))


def _write_parquet(path: Path) -> None:
    """Write a small file with many identical rows."""
    schema = pa.schema({"ds": pa.int32(), "y": pa.int32()})
    rows = pa.table({"ds": np.zeros(10_000_000, "i4"), "y": np.zeros(10_000_000, "i4")}, schema)
    with pq.ParquetWriter(path, schema) as writer:
        for _ in range(11):
            writer.write_table(rows)


def _write_cut_parquet(path: Path) -> None:
    _long().to_parquet(path)
    os.truncate(path, 500)


UNREADABLE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut gzip": ("a.csv.gz", lambda path: _write_gzip(path, lambda whole: whole[:-30]), "ended before"),
    "gzip header alone": ("a.csv.gz", lambda path: _write_gzip(path, lambda whole: whole[:9]), "ended before"),
    "damaged gzip": ("a.csv.gz", lambda path: _write_gzip(path, lambda whole: whole[:40] + b"\xff" * 9), ""),
    "wrong checksum": ("a.csv.gz", lambda path: _write_gzip(path, lambda whole: whole[:-8] + b"\0" * 8), "CRC"),
    "no gzip": ("a.csv.gz", lambda path: path.write_text(ROWS), "gzip"),
    "gzip of 1.1 GB": ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(b"0" * 11 * 10**7) * 10), "1 GiB"),
    "cut Parquet": ("a.parquet", _write_cut_parquet, ""),
    "Parquet of 110 million rows": ("a.parquet", _write_parquet, "110000000 rows"),
    "FIFO": ("a.csv", os.mkfifo, "not a plain file"),
    "folder": ("a.parquet", Path.mkdir, "not a plain file"),
    "no UTF-8": ("a.csv", lambda path: path.write_bytes(b"ds,y\n\xff\xfe,1\n"), ""),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_truncated_damaged_and_huge_files_are_refused(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(FileFormatError, match=rf"{re.escape(name)}.*{message}"):
        FilesSource(path=tmp_path / name).load()


@needs_real_data
def test_load_reads_real_price_files() -> None:
    files = sorted((REAL_DATA / "stock").glob("*20*.csv"))
    assert files
    for file in files:
        frame = FilesSource(path=file).load()
        assert len(frame) > 1000
        assert frame["y"].gt(0).all()


def test_each_column_of_a_wide_file_is_a_series(tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    path.write_text("date,north,holiday,south\n2026-01-01,1,0,3\n2026-01-02,2,1,4\n")
    frame = FilesSource(path=path, wide=True, columns=Columns(ds="date")).load(["holiday"])
    assert list(frame.columns) == ["unique_id", "ds", "y", "holiday"]
    assert frame["unique_id"].tolist() == ["north", "north", "south", "south"]
    assert frame["y"].tolist() == [1, 2, 3, 4]
    assert frame["holiday"].tolist() == [0, 1, 0, 1]
    assert frame.index.tolist() == [2, 3, 2, 3]


def test_errors_of_a_wide_file_name_what_to_correct(tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    path.write_text("ds,north,SPY.Adj Close\n2026-01-01,1,3\n2026-01-02,2,\n")
    source = FilesSource(path=path, wide=True)
    with pytest.raises(FileFormatError, match=r"line 3: column 'SPY\.Adj Close' holds '', not a finite number"):
        source.load()
    assert source.adjusted() == ("y",)
    with pytest.raises(FileFormatError, match=r"has no column besides \['ds', 'north', 'SPY\.Adj Close'\]"):
        source.load(["north", "SPY.Adj Close"])
    with pytest.raises(FileFormatError, match=r"missing columns \['date'\]"):
        FilesSource(path=path, wide=True, columns=Columns(ds="date")).load()
    with pytest.raises(ValueError, match="wide and columns: with wide, every column is a series"):
        FilesSource(path=path, wide=True, columns=Columns(y="north"))
