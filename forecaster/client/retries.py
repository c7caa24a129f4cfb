"""When to retry a request, and after which delay. The senders wait; this only decides."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# too many requests; and the statuses of a service, or a proxy before it, that cannot answer now
RETRIED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """How often to retry a request, and after which delays.

    Args:
        count: retries after the first attempt; 0 for none.
        first_seconds: the longest delay before the first retry; it doubles with each further retry.
        longest_seconds: the limit of this growth.
        patience_seconds: the longest delay that the service may ask for; if it asks for more, the request fails.
    """

    count: int = 4
    first_seconds: float = 0.5
    longest_seconds: float = 8
    patience_seconds: float = 60

    def pause(self, n_retries: int, retry_after_seconds: float | None) -> float | None:
        """Return the seconds to wait before the next retry; None to give up.

        Args:
            n_retries: the number of retries so far.
            retry_after_seconds: the delay that the service asks for; None if it names none.
        """
        if n_retries >= self.count:
            return None
        if retry_after_seconds is not None:
            return retry_after_seconds if retry_after_seconds <= self.patience_seconds else None
        longest = min(self.longest_seconds, self.first_seconds * 2**n_retries)
        # random, so that clients that failed together do not retry together
        return random.uniform(longest / 2, longest)  # noqa: S311


def read_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds in a `Retry-After` header, which is a number of seconds or a date; None if it is neither.

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
