"""A hold: from a session on, a symbol's prices are not believed until somebody confirms them.

numpy and pandas stay out, because the tails of the service carry holds too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecaster.domain.errors import Unconfirmed

# a series whose unit changes each day has thousands of jumps
SHOWN = 3


@dataclass(frozen=True)
class Hold:
    """Why prices are held back.

    Args:
        days: the sessions that must be confirmed, ISO 8601; the first is the first whose bar is held back.
        seen: what was seen on them.
    """

    days: tuple[str, ...]
    seen: str

    def message_for(self, symbol: str) -> str:
        """Return what is held back and what to do about it."""
        flags = " ".join(f"--confirm {symbol}:{day}" for day in self.days[:SHOWN])
        flags += " …" if len(self.days) > SHOWN else ""
        return (
            f"held back from {self.days[0]} on: {self.seen}, which no dividend or split explains; "
            f"fetch again when the source has corrected it, or, if it is right, run pipelines.fetch CONFIG {flags}"
        )

    def refuse(self, symbol: str) -> None:
        """Raise Unconfirmed."""
        raise Unconfirmed(symbol, self.message_for(symbol))


def read_hold(content: Mapping[str, Any] | None) -> Hold | None:
    """Return a hold that was written as a mapping of its fields.

    Raises:
        KeyError, TypeError: it is none.
    """
    return Hold(tuple(content["days"]), str(content["seen"])) if content else None
