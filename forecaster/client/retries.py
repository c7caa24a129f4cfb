"""When a request is sent again, and how long to wait before: decided here, waited for by whoever sends."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# too many requests; and what the service, or a proxy before it, says when it cannot answer now
STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """How often and how patiently a request is repeated.

    Args:
        count: repetitions after the first try; 0 for none.
        first_seconds: the most that is waited before the first repetition; it doubles with each further one.
        longest_seconds: what it does not grow beyond.
        patience_seconds: the longest wait that the service may ask for; where it asks for more, the request fails.
    """

    count: int = 4
    first_seconds: float = 0.5
    longest_seconds: float = 8
    patience_seconds: float = 60

    def pause(self, number: int, asked_seconds: float | None) -> float | None:
        """Return the seconds to wait before repetition `number`, from 0 on; None to give up.

        Args:
            number: how many repetitions there have been.
            asked_seconds: what the service asks for; None where it does not say.
        """
        if number >= self.count:
            return None
        if asked_seconds is not None:
            return asked_seconds if asked_seconds <= self.patience_seconds else None
        most = min(self.longest_seconds, self.first_seconds * 2**number)
        # many clients that failed together do not come back together
        return random.uniform(most / 2, most)  # noqa: S311


def read_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a `Retry-After` asks for, given in seconds or as a date; None where it says neither.

    Source: RFC 9110, section 10.2.3.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds())
