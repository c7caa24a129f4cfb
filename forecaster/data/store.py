"""The bar store: a Parquet file per symbol, with a small JSON tail for readers without pandas.

All writes are atomic. The tail is written last and has the digest of its Parquet file, so that an update notices if a
process was killed between the two writes.
"""

import hashlib
import json
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
from forecaster.domain.files import draft_of, write_atomically

TAIL_ROWS = 512
# lower case, which symbols' file names never contain, so a suffix cannot be a part of another symbol's name
_BARS, _PREVIOUS, _REPORT, _TAIL = _SUFFIXES = ("parquet", "parquet.previous", "quality.json", "tail.json")
_META = b"forecaster"


class BarStore:
    """A folder of bars, shared by many processes; each symbol has a lock for writers."""

    def __init__(self, folder: Path, lock_timeout_seconds: float = 60) -> None:
        self.folder = folder
        self.lock_timeout_seconds = lock_timeout_seconds

    def symbols(self) -> list[str]:
        """Return the stored symbols, sorted."""
        return sorted(symbol_of(path.name.removesuffix(".parquet")) for path in self.folder.glob("*.parquet"))

    def files(self, symbol: str) -> list[Path]:
        """Return a symbol's existing files; hold its lock to get a consistent set."""
        paths = [self._path(symbol, suffix) for suffix in _SUFFIXES]
        return [path for path in paths if path.is_file()]

    def read(self, symbol: str) -> Bars | None:
        """Return a symbol's bars, or None if it is not stored.

        Raises:
            FileFormatError: the file exists but cannot be read.
        """
        path = self._path(symbol, _BARS)
        try:
            # read the file once, because a writer may replace it between two reads
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
        """Replace a symbol's bars, report and tail, each atomically; hold the symbol's lock.

        Args:
            bars: all bars of the symbol.
            due_at: when the next session is complete, with a time zone.
            report: the quality report of these bars.
            keep_previous: whether to keep the replaced bars as the previous generation.

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
                _write(self._path(bars.symbol, _PREVIOUS), path.read_bytes())
            _write(path, content)
            if report is not None:
                _write(self._path(bars.symbol, _REPORT), json.dumps(asdict(report), indent=1).encode())
            _write(self._path(bars.symbol, _TAIL), _tail(bars, due_at, _digest(content)).to_json().encode())
        except OSError as error:
            raise DataError(
                f"{self.folder}: {bars.symbol} cannot be written ({error}); free space and retry"
            ) from error

    def is_whole(self, symbol: str) -> bool:
        """Whether a stored symbol's tail matches its bars; hold the symbol's lock.

        Raises:
            FileFormatError: the bars exist but cannot be read.
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
        """Hold a symbol's lock.

        Raises:
            DataError: another process holds the lock for too long, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path(symbol, "lock"), timeout=self.lock_timeout_seconds)
            lock.acquire()
        except Timeout as error:
            raise DataError(
                f"{symbol}: another process has held its lock for {self.lock_timeout_seconds:g} s; try again, or end "
                "that process if it hangs"
            ) from error
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error}); set store to another folder") from error
        try:
            # remove the drafts of killed processes
            for suffix in _SUFFIXES:
                draft_of(self._path(symbol, suffix)).unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _path(self, symbol: str, suffix: str) -> Path:
        return self.folder / f"{file_name(symbol)}.{suffix}"


def _tail(bars: Bars, due_at: datetime, digest: str) -> Tail:
    """Return the last adjusted bars before the first unconfirmed jump.

    The stored bars contain an unconfirmed jump only if an earlier release stored them, which did not look for jumps.
    """
    hold = find_hold(bars)
    usable = bars.before(np.datetime64(hold.days[0])) if hold else bars
    last = usable.adjusted().tail(TAIL_ROWS)
    columns = {str(name): column.to_numpy() for name, column in last.items()}
    return Tail(bars.symbol, usable.sessions[-TAIL_ROWS:], columns, due_at, bars.held or hold, digest)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with write_atomically(path, is_locked=True) as draft:
        draft.write_bytes(content)
