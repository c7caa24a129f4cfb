"""Errors as RFC 9457 problems: one table from domain errors to statuses, and nothing of the inside in any answer."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from forecaster.domain.errors import (
    DatabaseUnavailable,
    DataError,
    ForecasterError,
    RequestError,
    StaleData,
    UnknownModel,
    UnknownSymbol,
)
from service.schemas import Mistake, Problem

_TOLD = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
# when a client whose request cannot be answered just now may come again
RETRY_AFTER_SECONDS = 2
RESPONSES: dict[int | str, dict[str, Any]] = {
    int(status): {"model": Problem, "description": status.phrase, "content": {"application/problem+json": {}}}
    for status in _TOLD
}
_log = logging.getLogger("service")


class MalformedBody(ForecasterError):
    """A body that is not what the schema asks for."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(f"{mistake.location}: {mistake.message}" for mistake in mistakes))
        self.mistakes = mistakes


class UnknownForecast(ForecasterError):
    """The ledger has no such forecast."""


class BodyTooLarge(ForecasterError):
    """A body beyond the limit."""


STATUSES: dict[type[ForecasterError], HTTPStatus] = {
    UnknownForecast: HTTPStatus.NOT_FOUND,
    UnknownModel: HTTPStatus.NOT_FOUND,
    UnknownSymbol: HTTPStatus.NOT_FOUND,
    StaleData: HTTPStatus.CONFLICT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    DataError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def problem(status: int, detail: str, mistakes: list[Mistake] | None = None) -> JSONResponse:
    """Return an error as `application/problem+json`."""
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=mistakes or [])
    return JSONResponse(content.model_dump(), status, media_type="application/problem+json")


def _told(status: HTTPStatus, error: ForecasterError) -> JSONResponse:
    if status is not HTTPStatus.SERVICE_UNAVAILABLE:
        return problem(status, str(error))
    # where the database is, and what is wrong with it, is not the client's affair
    _log.error("%s", error)
    answer = problem(status, "the ledger cannot be read or written just now; try again in a moment")
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""

    @app.exception_handler(ForecasterError)
    async def on_domain_error(request: Request, error: ForecasterError) -> JSONResponse:
        if isinstance(error, MalformedBody):
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), error.mistakes)
        for kind, status in STATUSES.items():
            if isinstance(error, kind):
                return _told(status, error)
        return await on_surprise(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def on_surprise(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an unexpected error; it is in the service's log")
