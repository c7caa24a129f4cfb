"""Error responses: RFC 9457 problems, or errors of the Open Inference Protocol.

Clients see the messages of errors in their request. Other messages may name files, folders and addresses of the
server: they go to the log, and clients get a general message.
"""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from forecaster.domain.errors import (
    CalendarError,
    DatabaseUnavailable,
    ForecasterError,
    MarketDataError,
    RequestError,
    SeriesError,
    TooShortError,
    UnknownModel,
    UnknownSymbol,
)
from service.exceptions import MalformedBody, ServiceError
from service.protocol import InferenceProblem
from service.responses import FieldError, Problem

# the status of each domain error whose message clients see: errors in the request or in a symbol's stored bars
SHOWN: dict[type[ForecasterError], HTTPStatus] = {
    UnknownModel: HTTPStatus.NOT_FOUND,
    UnknownSymbol: HTTPStatus.NOT_FOUND,
    MarketDataError: HTTPStatus.CONFLICT,
    SeriesError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooShortError: HTTPStatus.UNPROCESSABLE_ENTITY,
    CalendarError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
# statuses that every route with authentication may return
ANY_ROUTE = (401, 403, 429, 503)
# the Retry-After header while the database is unavailable
RETRY_AFTER_SECONDS = 2
# clients see no details, and the log has the traceback under the request's id
UNEXPECTED = "unexpected error; see the service's log"
_log = logging.getLogger("forecaster.service")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of a route's problems, with those of `ANY_ROUTE`."""
    content: dict[str, Any] = {"application/problem+json": {}}
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*ANY_ROUTE, *statuses})
    }


def truncate(text: str, max_chars: int = 5000) -> str:
    """Return at most `max_chars` characters of a message, which may quote long names from the request."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def problem(
    status: int, detail: str, field_errors: list[FieldError] | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an `application/problem+json` response."""
    detail = truncate(detail)
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=field_errors or [])
    return JSONResponse(content.model_dump(), status, headers, media_type="application/problem+json")


def error_response(
    request: Request,
    status: int,
    detail: str,
    field_errors: list[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return an error response in the request's protocol: Open Inference Protocol below `/v2`, else a problem."""
    if request.scope["path"].split("/")[1:2] != ["v2"]:
        return problem(status, detail, field_errors, headers)
    is_invalid = status == HTTPStatus.UNPROCESSABLE_ENTITY
    content = InferenceProblem(error=truncate(detail)).model_dump()
    return JSONResponse(content, HTTPStatus.BAD_REQUEST if is_invalid else status, headers)


def problem_response(error: ServiceError) -> JSONResponse:
    """Return a service error as a problem, for requests that have not been routed."""
    return problem(error.status, str(error), error.field_errors, error.headers)


def domain_error_response(request: Request, error: ForecasterError) -> JSONResponse:
    """Return the response to a request that failed; an error that the client must not see is logged."""
    if isinstance(error, ServiceError):
        return error_response(request, error.status, str(error), error.field_errors, error.headers)
    if isinstance(error, DatabaseUnavailable):
        _log.error("%s", error)
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        detail = "the database is unavailable; retry"
        return error_response(request, HTTPStatus.SERVICE_UNAVAILABLE, detail, None, headers)
    for kind, status in SHOWN.items():
        if isinstance(error, kind):
            return error_response(request, status, str(error))
    _log.error("%s", error, exc_info=error)
    detail = "the service failed; its log has the reason under this request's id"
    return error_response(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def install(app: FastAPI) -> None:
    """Add the exception handlers to `app`."""

    @app.exception_handler(ForecasterError)
    async def on_domain_error(request: Request, error: ForecasterError) -> JSONResponse:
        return domain_error_response(request, error)

    # the middleware around the application logs the exception, which is raised again
    @app.exception_handler(Exception)
    async def on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        field_errors = [
            FieldError(location=".".join(str(part) for part in detail["loc"]), message=detail["msg"])
            for detail in error.errors()
        ]
        malformed = MalformedBody(field_errors)
        return error_response(request, malformed.status, str(malformed), field_errors)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(request, error.status_code, str(error.detail), None, dict(error.headers or {}))
