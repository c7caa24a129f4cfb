"""The bar store: one Parquet file per symbol, whole or not there; a small JSON tail beside it for lean readers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from forecaster.data.bars import CLOSE, COLUMNS, SESSION, Bars, Origin
from forecaster.domain.errors import DataError, FileFormatError

TAIL_ROWS = 512
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_META = b"forecaster"


class BarStore:
    """A folder of bars. Many processes may use it at once; each symbol has a lock."""

    def __init__(self, folder: Path, lock_timeout_seconds: float = 60) -> None:
        self.folder = folder
        self.lock_timeout_seconds = lock_timeout_seconds

    def symbols(self) -> list[str]:
        """Return the symbols that are stored, sorted."""
        return sorted(_symbol(path.name.removesuffix(".parquet")) for path in self.folder.glob("*.parquet"))

    def read(self, symbol: str) -> Bars | None:
        """Return a symbol's bars, or None where there are none.

        Raises:
            FileFormatError: the file is there and cannot be read.
        """
        path = self._path(symbol, "parquet")
        try:
            table = pq.read_table(path)
            meta = json.loads(table.schema.metadata[_META])
            frame = table.to_pandas().set_index(SESSION)
            return Bars(meta["symbol"], frame[list(COLUMNS)], Origin(**meta["origin"]))
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path}: cannot be read ({error}); restore it, or remove it and fetch again"
            ) from error

    def write(self, bars: Bars) -> None:
        """Replace a symbol's bars, and the tail; a crash at any instant leaves the old file or the new one, whole.

        Raises:
            DataError: a file cannot be written.
        """
        meta = {"symbol": bars.symbol, "origin": asdict(bars.origin)}
        table = pa.Table.from_pandas(bars.frame.reset_index(names=SESSION), preserve_index=False)
        table = table.replace_schema_metadata({_META: json.dumps(meta).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        try:
            _replace(self._path(bars.symbol, "parquet"), sink.getvalue().to_pybytes())
            _replace(self._path(bars.symbol, "tail.json"), json.dumps(_tail(bars)).encode())
        except OSError as error:
            raise DataError(
                f"{self.folder}: {bars.symbol} cannot be written ({error}); free space and retry"
            ) from error

    @contextmanager
    def lock(self, symbol: str) -> Iterator[None]:
        """Hold a symbol for this process alone.

        Raises:
            DataError: another process has held it for too long, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path(symbol, "lock"), timeout=self.lock_timeout_seconds)
            lock.acquire()
        except Timeout as error:
            raise DataError(f"{symbol}: another process has been updating it for long; is it stuck?") from error
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error}); set store") from error
        try:
            # what a killed process left
            for draft in self.folder.glob(f".{file_name(symbol)}.*.draft"):
                draft.unlink()
            yield
        finally:
            lock.release()

    def _path(self, symbol: str, suffix: str) -> Path:
        return self.folder / f"{file_name(symbol)}.{suffix}"


def file_name(symbol: str) -> str:
    """Return a name that is safe on every file system and of this symbol alone, whatever is made of its case.

    Capitals, digits, `-`, `_` and `.` stay; all else, small letters too, becomes `%` and hexadecimal bytes.
    """
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in symbol.encode())


def _symbol(name: str) -> str:
    head, *parts = name.split("%")
    return (head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in parts)).decode()


def _tail(bars: Bars) -> dict[str, object]:
    """Return the last sessions' adjusted closes, which is all that a forecast needs."""
    close = bars.adjusted()[CLOSE].tail(TAIL_ROWS)
    days = np.datetime_as_string(close.index.to_numpy().astype("M8[D]")).tolist()
    return {"symbol": bars.symbol, "exchange": bars.origin.exchange, "ds": days, "y": close.tolist()}


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
