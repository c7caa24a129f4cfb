"""The service's own exceptions, each with its HTTP status and headers."""

from http import HTTPStatus

from forecaster.domain.errors import ForecasterError
from service.responses import FieldError


class ServiceError(ForecasterError):
    """A request is refused. Subclasses set the HTTP status."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.field_errors: list[FieldError] = []


class UnknownHost(ServiceError):
    """The Host header is missing, malformed, or names a host that this service does not serve."""


class DuplicateHeader(ServiceError):
    """A header that must be unique occurs twice."""


class CrossSiteRequest(ServiceError):
    """A page of another site makes the browser send the request."""

    status = HTTPStatus.FORBIDDEN


class NotAuthenticated(ServiceError):
    """The request has no valid API key."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": "Bearer"})


class PermissionDenied(ServiceError):
    """The API key lacks the scope that the route requires."""

    status = HTTPStatus.FORBIDDEN


class UnknownForecast(ServiceError):
    """The ledger has no forecast of this id that the caller may read."""

    status = HTTPStatus.NOT_FOUND


class NoExample(ServiceError):
    """The version has no example."""

    status = HTTPStatus.NOT_FOUND


class BodyTimeout(ServiceError):
    """The body does not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class BodyTooLarge(ServiceError):
    """The body is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class MalformedBody(ServiceError):
    """The body does not match the schema."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, field_errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{error.location}: {error.message}" for error in field_errors))
        self.field_errors = field_errors


class _RetryLater(ServiceError):
    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message, {"Retry-After": str(retry_after_seconds)})


class TooManyRequests(_RetryLater):
    """The client exceeds its rate limit."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class Overloaded(_RetryLater):
    """A limit on concurrent work or memory is reached."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class KeysUnavailable(_RetryLater):
    """The API keys have not been read from the database yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
