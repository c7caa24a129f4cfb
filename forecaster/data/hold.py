"""A hold keeps a symbol's prices from a session on out of the store until a person confirms them.

Imports neither numpy nor pandas, because the serving process reads holds too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecaster.domain.errors import Unconfirmed

# a message lists at most this many days; a series whose unit changes daily has thousands of jumps
MAX_DAYS_SHOWN = 3


@dataclass(frozen=True)
class Hold:
    """A hold on a symbol's prices.

    Args:
        days: the sessions to confirm, ISO 8601; bars are held back from the first on.
        seen: a description of the jumps.
    """

    days: tuple[str, ...]
    seen: str

    def message_for(self, symbol: str) -> str:
        """Return the error message: what is held back, why, and what to do."""
        flags = " ".join(f"--confirm {symbol}:{day}" for day in self.days[:MAX_DAYS_SHOWN])
        flags += " …" if len(self.days) > MAX_DAYS_SHOWN else ""
        return (
            f"held back from {self.days[0]} on: {self.seen}, which no dividend or split explains; "
            f"fetch again when the source has corrected it, or run pipelines.fetch CONFIG {flags} if it is right"
        )

    def error_for(self, symbol: str) -> Unconfirmed:
        """Return the error for requests that need these prices."""
        return Unconfirmed(symbol, self.message_for(symbol))


def read_hold(content: Mapping[str, Any] | None) -> Hold | None:
    """Return the hold from a mapping of its fields; None from None.

    Raises:
        KeyError, TypeError: the mapping is not a hold.
    """
    return Hold(tuple(content["days"]), str(content["seen"])) if content else None
