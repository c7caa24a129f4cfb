"""The bar store: one Parquet file per symbol, whole or not there; a small JSON tail beside it for lean readers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from forecaster.data.bars import COLUMNS, SESSION, Bars, Origin
from forecaster.data.quality import Report
from forecaster.data.tails import Tail, file_name, symbol_of
from forecaster.domain.errors import DataError, FileFormatError

TAIL_ROWS = 512
_META = b"forecaster"


class BarStore:
    """A folder of bars. Many processes may use it at once; each symbol has a lock."""

    def __init__(self, folder: Path, lock_timeout_seconds: float = 60) -> None:
        self.folder = folder
        self.lock_timeout_seconds = lock_timeout_seconds

    def symbols(self) -> list[str]:
        """Return the symbols that are stored, sorted."""
        return sorted(symbol_of(path.name.removesuffix(".parquet")) for path in self.folder.glob("*.parquet"))

    def files(self, symbol: str) -> list[Path]:
        """Return the files that hold a symbol, of those that are there; hold its lock to have them together."""
        paths = [self._path(symbol, suffix) for suffix in ("parquet", "tail.json", "quality.json")]
        return [path for path in paths if path.is_file()]

    def read(self, symbol: str) -> Bars | None:
        """Return a symbol's bars, or None where there are none.

        Raises:
            FileFormatError: the file is there and cannot be read.
        """
        path = self._path(symbol, "parquet")
        try:
            # at once: opened twice, it could be another file the second time
            table = pq.read_table(pa.BufferReader(path.read_bytes()))
            meta = json.loads(table.schema.metadata[_META])
            frame = table.to_pandas().set_index(SESSION)
            return Bars(meta["symbol"], frame[list(COLUMNS)], Origin(**meta["origin"]))
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path}: cannot be read ({error}); restore it, or remove it and fetch again"
            ) from error

    def write(self, bars: Bars, due_at: datetime, report: Report | None = None) -> None:
        """Replace a symbol's bars, tail and report; a crash at any instant leaves the old file or the new one, whole.

        Args:
            bars: all that is known of the symbol.
            due_at: when the next session will have ended and settled, with a zone.
            report: what the quality rules found in them.

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
            _replace(self._path(bars.symbol, "tail.json"), _tail(bars, due_at).to_json().encode())
            if report is not None:
                _replace(self._path(bars.symbol, "quality.json"), json.dumps(asdict(report), indent=1).encode())
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


def _tail(bars: Bars, due_at: datetime) -> Tail:
    """Return the last sessions' adjusted bars, which is all that a forecast needs."""
    last = bars.adjusted().tail(TAIL_ROWS)
    columns = {str(name): column.to_numpy() for name, column in last.items()}
    return Tail(bars.symbol, bars.sessions[-TAIL_ROWS:], columns, due_at)


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
