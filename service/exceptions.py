"""What the service itself refuses, each with its status and what tells the client when to come again."""

from http import HTTPStatus

from forecaster.domain.errors import ForecasterError
from service.schemas import Mistake


class ServiceError(ForecasterError):
    """A request that is not answered."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.mistakes: list[Mistake] = []


class UnknownHost(ServiceError):
    """It names a host that this service does not answer for."""


class RepeatedHeader(ServiceError):
    """It has a header twice that may be there once."""


class AnotherSite(ServiceError):
    """A browser sends it for a page of another site."""

    status = HTTPStatus.FORBIDDEN


class NotAuthenticated(ServiceError):
    """It shows no API key that is good."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": "Bearer"})


class NotAllowed(ServiceError):
    """Its key has not the scope that this needs."""

    status = HTTPStatus.FORBIDDEN


class UnknownForecast(ServiceError):
    """The ledger has no such forecast."""

    status = HTTPStatus.NOT_FOUND


class NoExample(ServiceError):
    """The version keeps no example."""

    status = HTTPStatus.NOT_FOUND


class BodyTooSlow(ServiceError):
    """Its body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class BodyTooLarge(ServiceError):
    """Its body is beyond the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class MalformedBody(ServiceError):
    """Its body is not what the schema asks for."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(f"{mistake.location}: {mistake.message}" for mistake in mistakes))
        self.mistakes = mistakes


class _ComeAgain(ServiceError):
    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message, {"Retry-After": str(retry_after_seconds)})


class TooManyRequests(_ComeAgain):
    """Its client asks too often."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class TooBusy(_ComeAgain):
    """As many forecasts as are allowed are being made."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class KeysUnknown(_ComeAgain):
    """The database, which has the keys, has not answered yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
