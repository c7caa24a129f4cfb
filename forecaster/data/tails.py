"""The tail of a stored series, for processes without frames: its last adjusted bars, and when more are due."""

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
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True)
class Tail:
    """The last sessions of a symbol.

    Args:
        symbol: as the source spells it.
        days: the sessions, `(n,)`, datetime64[D].
        bars: `open, high, low, close, volume`, adjusted, `(n,)` each.
        due_at: when the session after the last has ended and settled, with a zone.
        held: why nothing may be forecast from it; None where all is well.
        digest: the SHA-256 of the Parquet file that it was made of; empty where that is not known.
    """

    symbol: str
    days: Times
    bars: dict[str, Floats]
    due_at: datetime
    held: Hold | None = None
    digest: str = ""

    def check_usable(self, now: datetime, patience: timedelta) -> None:
        """Refuse to forecast from prices that are held back or old.

        Raises:
            Unconfirmed: the prices jump, and nobody has confirmed it.
            StaleData: the session after the last was complete more than `patience` before `now`.
        """
        if self.held:
            self.held.refuse(self.symbol)
        if now > self.due_at + patience:
            raise StaleData(
                self.symbol,
                f"the store ends with session {self.days[-1]}, and the next was complete at {self.due_at.isoformat()}; "
                "update it with pipelines.fetch, or send its history as series",
            )

    def values(self, features: Sequence[str]) -> Floats:
        """Return the closes and beside them bar features, `(n, 1 + features)`.

        Raises:
            ConfigError: there is no such bar feature.
        """
        return np.stack([self.bars["close"], *(bar_feature(name, self.bars) for name in features)], axis=1)

    def to_json(self) -> str:
        """Return the tail as text."""
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
        UnknownSymbol: it is not stored.
        FileFormatError: its file cannot be read.
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
        # a name that is too long for a file cannot be stored either
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            raise UnknownSymbol(
                symbol, "is not in the bar store; fetch it first, or send its history as series"
            ) from error
        raise FileFormatError(f"{path}: cannot be read ({error}); fetch the symbol again") from error


def _check(tail: Tail) -> None:
    """Raise ValueError where a file that was damaged, or written by hand, is not what `Tail` says."""
    if tail.days.ndim != 1 or np.isnat(tail.days).any() or not (np.diff(tail.days) > np.timedelta64(0, "D")).all():
        raise ValueError("its days are not in order")
    if tail.due_at.tzinfo is None:
        raise ValueError("due_at has no zone")
    for name, column in tail.bars.items():
        if column.shape != tail.days.shape or not np.isfinite(column).all():
            raise ValueError(f"{name} has not one number for each day")


def stored_symbols(folder: Path) -> list[str]:
    """Return the symbols that have a tail in `folder`, sorted; none where there is no folder."""
    return sorted(symbol_of(path.name.removesuffix(_SUFFIX)) for path in folder.glob(f"*{_SUFFIX}"))


def file_name(symbol: str) -> str:
    """Return a name that is safe on every file system and of this symbol alone, whatever is made of its case.

    Capitals, digits, `-`, `_` and `.` stay; all else, small letters too, becomes `%` and hexadecimal bytes.
    """
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in symbol.encode())


def symbol_of(name: str) -> str:
    """Return the symbol that `file_name` made `name` of."""
    head, *parts = name.split("%")
    return (head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in parts)).decode()
