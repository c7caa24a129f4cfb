"""The bar store: one Parquet file per symbol, whole or not there; a small JSON tail beside it for lean readers.

The tail is written last and names the Parquet file that it was made of, so that an update sees where a process was
killed between the two.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from forecaster.data.bars import COLUMNS, SESSION, Bars, Origin
from forecaster.data.hold import read_hold
from forecaster.data.jumps import find_hold
from forecaster.data.quality import Report
from forecaster.data.tails import Tail, file_name, read_tail, symbol_of
from forecaster.domain.errors import DataError, FileFormatError, UnknownSymbol

TAIL_ROWS = 512
# small letters, which no symbol's file name has: a suffix is never a part of another symbol's name
_BARS, _PREVIOUS, _REPORT, _TAIL = _SUFFIXES = ("parquet", "parquet.previous", "quality.json", "tail.json")
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
        paths = [self._path(symbol, suffix) for suffix in _SUFFIXES]
        return [path for path in paths if path.is_file()]

    def read(self, symbol: str) -> Bars | None:
        """Return a symbol's bars, or None where there are none.

        Raises:
            FileFormatError: the file is there and cannot be read.
        """
        path = self._path(symbol, _BARS)
        try:
            # at once: opened twice, it could be another file the second time
            table = pq.read_table(pa.BufferReader(path.read_bytes()))
            meta = json.loads(table.schema.metadata[_META])
            frame = table.to_pandas().set_index(SESSION)
            return Bars(
                meta["symbol"],
                frame[list(COLUMNS)],
                Origin(**meta["origin"]),
                meta.get("confirmed", {}),
                read_hold(meta.get("held")),
            )
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path}: cannot be read ({error}); restore it, or remove it and fetch again"
            ) from error

    def write(self, bars: Bars, due_at: datetime, report: Report | None = None, *, keep_previous: bool = False) -> None:
        """Replace a symbol's bars, report and tail; a crash at any instant leaves the old file or the new one, whole.

        Args:
            bars: all that is known of the symbol.
            due_at: when the next session will have ended and settled, with a zone.
            report: what the quality rules found in them.
            keep_previous: whether the bars that are replaced stay beside the new ones, in place of those kept before.

        Raises:
            DataError: a file cannot be written.
        """
        held = asdict(bars.held) if bars.held else None
        meta = {
            "symbol": bars.symbol, "origin": asdict(bars.origin), "confirmed": dict(bars.confirmed), "held": held
        }  # fmt: skip
        table = pa.Table.from_pandas(bars.frame.reset_index(names=SESSION), preserve_index=False)
        table = table.replace_schema_metadata({_META: json.dumps(meta).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        content = sink.getvalue().to_pybytes()
        path = self._path(bars.symbol, _BARS)
        try:
            if keep_previous:
                _replace(self._path(bars.symbol, _PREVIOUS), path.read_bytes())
            _replace(path, content)
            if report is not None:
                _replace(self._path(bars.symbol, _REPORT), json.dumps(asdict(report), indent=1).encode())
            _replace(self._path(bars.symbol, _TAIL), _tail(bars, due_at, _digest(content)).to_json().encode())
        except OSError as error:
            raise DataError(
                f"{self.folder}: {bars.symbol} cannot be written ({error}); free space and retry"
            ) from error

    def is_whole(self, symbol: str) -> bool:
        """Say whether a stored symbol's tail was made of its bars; hold its lock.

        Raises:
            FileFormatError: the bars are there and cannot be read.
        """
        path = self._path(symbol, _BARS)
        try:
            digest = _digest(path.read_bytes())
        except OSError as error:
            raise FileFormatError(f"{path}: cannot be read ({error}); restore it") from error
        try:
            return read_tail(self.folder, symbol).digest == digest
        except (FileFormatError, UnknownSymbol):
            return False

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
            for suffix in _SUFFIXES:
                _draft_of(self._path(symbol, suffix)).unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _path(self, symbol: str, suffix: str) -> Path:
        return self.folder / f"{file_name(symbol)}.{suffix}"


def _tail(bars: Bars, due_at: datetime, digest: str) -> Tail:
    """Return the last sessions' adjusted bars, which is all that a forecast needs, before the first that is in doubt.

    Bars that are in doubt are stored only where an earlier release, which did not look for jumps, has stored them.
    """
    doubt = find_hold(bars)
    believed = bars.before(np.datetime64(doubt.days[0])) if doubt else bars
    last = believed.adjusted().tail(TAIL_ROWS)
    columns = {str(name): column.to_numpy() for name, column in last.items()}
    return Tail(bars.symbol, believed.sessions[-TAIL_ROWS:], columns, due_at, bars.held or doubt, digest)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.draft")


def _replace(path: Path, content: bytes) -> None:
    draft = _draft_of(path)
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
