"""The errors of the client.

    ClientError             the base class; raised itself if the client's address or key is invalid
    ├── RequestRefused      the service refuses the request; a retry would not help
    │   ├── NotAllowed      the key is missing or unknown, or lacks a scope
    │   └── TooManyRequests the service limits the request rate, also after all retries
    ├── ServiceUnavailable  the service cannot be reached or cannot answer now, also after all retries
    └── BadAnswer           the answer does not come from the service

An invalid frame raises `SeriesError`, as `ArrayPredictor.predict_frame` does.
"""

from collections.abc import Mapping, Sequence

from forecaster.domain.errors import ForecasterError

__all__ = [
    "BadAnswer",
    "ClientError",
    "NotAllowed",
    "RequestRefused",
    "ServiceUnavailable",
    "TooManyRequests",
]


class ClientError(ForecasterError):
    """A request through the client failed."""


class RequestRefused(ClientError):
    """The service refuses the request.

    Args:
        status: the HTTP status, 4xx.
        detail: the service's explanation.
        errors: the mistakes in the request's body, each with `location` and `message`.
    """

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(f"refused ({status}): {detail}")
        self.status = status
        self.detail = detail
        self.errors = [dict(mistake) for mistake in errors]


class NotAllowed(RequestRefused):
    """The key is missing or unknown (401), or lacks the scope for the request (403)."""


class TooManyRequests(RequestRefused):
    """The service limits the request rate (429).

    Args:
        detail: the service's explanation.
        retry_after_seconds: the delay that the service asks for; None if it names none.
    """

    def __init__(self, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(429, detail)
        self.retry_after_seconds = retry_after_seconds


class ServiceUnavailable(ClientError):
    """The service cannot be reached, does not answer in time, or answers that it cannot now (5xx)."""


class BadAnswer(ClientError):
    """The answer does not come from the service: another program listens at the address."""
