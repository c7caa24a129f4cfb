"""What can go wrong between the client and the service.

    ClientError             base; itself raised where the client cannot be made as asked
    ├── RequestRefused      the service refuses the request, and would again
    │   ├── NotAllowed      the key is missing, unknown, or not enough
    │   └── TooManyRequests the service asks for fewer requests, after every retry too
    ├── ServiceUnavailable  no answer can be had now, after every retry too
    └── BadAnswer           whatever answers is not the service

A frame that cannot be sent is a `SeriesError`, as it is in process.
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
        detail: the service's words.
        errors: each mistake in the body: `location` and `message`.
    """

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(f"refused ({status}): {detail}")
        self.status = status
        self.detail = detail
        self.errors = [dict(mistake) for mistake in errors]


class NotAllowed(RequestRefused):
    """The key is missing or unknown (401), or not enough for what was asked (403)."""


class TooManyRequests(RequestRefused):
    """The service asks for fewer requests (429).

    Args:
        detail: the service's words.
        retry_after_seconds: when it will answer again; None where it does not say.
    """

    def __init__(self, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(429, detail)
        self.retry_after_seconds = retry_after_seconds


class ServiceUnavailable(ClientError):
    """The service cannot be reached, does not answer in time, or says that it cannot answer now (5xx)."""


class BadAnswer(ClientError):
    """Whatever answers at the address is not the service."""
