"""The tail of a stored symbol, for the serving process: its last adjusted bars, and when the next are due."""

import errno
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from forecaster.data.bar_features import bar_feature
from forecaster.data.hold import Hold, read_hold
from forecaster.domain.errors import FileFormatError, StaleData, UnknownSymbol
from forecaster.domain.series import Floats, Times

_SUFFIX = ".tail.json"
_BARS = ("open", "high", "low", "close", "volume")
_KEPT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True)
class Tail:
    """The last sessions of a symbol.

    Args:
        symbol: as the source spells it.
        days: the sessions, `(n,)`, datetime64[D].
        bars: adjusted `open, high, low, close, volume`, `(n,)` each.
        due_at: when the session after the last is complete, with a time zone.
        held: the hold that forbids forecasts; None if there is none.
        digest: the SHA-256 of the tail's Parquet file; empty if unknown.
    """

    symbol: str
    days: Times
    bars: dict[str, Floats]
    due_at: datetime
    held: Hold | None = None
    digest: str = ""

    def check_usable(self, now: datetime, patience: timedelta) -> None:
        """Check that the prices are neither held back nor stale.

        Raises:
            Unconfirmed: the prices have an unconfirmed jump.
            StaleData: the session after the last was complete more than `patience` before `now`.
        """
        if self.held:
            raise self.held.error_for(self.symbol)
        if now > self.due_at + patience:
            raise StaleData(
                self.symbol,
                f"the store ends with session {self.days[-1]}, but the next was complete at {self.due_at.isoformat()}; "
                "run pipelines.fetch, or send the symbol's history as series",
            )

    def values(self, features: Sequence[str]) -> Floats:
        """Return the closes and bar features, `(n, 1 + features)`.

        Raises:
            ConfigError: a bar feature is unknown.
        """
        return np.stack([self.bars["close"], *(bar_feature(name, self.bars) for name in features)], axis=1)

    def to_json(self) -> str:
        """Serialize the tail; see `read_tail`."""
        content = {
            "symbol": self.symbol,
            "ds": np.datetime_as_string(self.days).tolist(),
            "bars": {name: column.tolist() for name, column in self.bars.items()},
            "due_at": self.due_at.isoformat(),
            "held": asdict(self.held) if self.held else None,
            "digest": self.digest,
        }
        return json.dumps(content, allow_nan=False)


def read_tail(folder: Path, symbol: str) -> Tail:
    """Return the tail of a stored symbol.

    Raises:
        UnknownSymbol: the symbol is not stored.
        FileFormatError: the tail cannot be read.
    """
    path = folder / f"{file_name(symbol)}{_SUFFIX}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tail = Tail(
            str(content["symbol"]),
            np.array(content["ds"], dtype="M8[D]"),
            {name: np.array(content["bars"][name], dtype=np.float64) for name in _BARS},
            datetime.fromisoformat(content["due_at"]),
            read_hold(content.get("held")),
            str(content.get("digest", "")),
        )
        _check(tail)
        return tail
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # a symbol that is too long for a file name cannot be stored
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            raise UnknownSymbol(
                symbol, "is not in the bar store; run pipelines.fetch for it, or send its history as series"
            ) from error
        raise FileFormatError(f"{path}: cannot be read ({error}); fetch the symbol again") from error


def _check(tail: Tail) -> None:
    """Raise ValueError if the file was damaged or edited."""
    if tail.days.ndim != 1 or np.isnat(tail.days).any() or not (np.diff(tail.days) > np.timedelta64(0, "D")).all():
        raise ValueError("ds is not increasing")
    if tail.due_at.tzinfo is None:
        raise ValueError("due_at has no time zone")
    for name, column in tail.bars.items():
        if column.shape != tail.days.shape or not np.isfinite(column).all():
            raise ValueError(f"{name} does not have one finite number per day")


def stored_symbols(folder: Path) -> list[str]:
    """Return the symbols with a tail in `folder`, sorted; empty if the folder does not exist."""
    return sorted(symbol_of(path.name.removesuffix(_SUFFIX)) for path in folder.glob(f"*{_SUFFIX}"))


def file_name(symbol: str) -> str:
    """Return a file name that is unique for the symbol and safe on every file system, also without case.

    Upper-case letters, digits, `-`, `_` and `.` are kept; other bytes, including lower-case letters, become `%` and
    two hexadecimal digits.
    """
    return "".join(chr(byte) if chr(byte) in _KEPT_CHARACTERS else f"%{byte:02X}" for byte in symbol.encode())


def symbol_of(name: str) -> str:
    """Return the symbol of a `file_name`."""
    head, *parts = name.split("%")
    return (head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in parts)).decode()
