"""Errors as RFC 9457 problems, or as another protocol spells them.

Only errors that are about the request are shown as they are. The messages of all others may name files, folders and
addresses of the server: they go to the log, and the client is told so.
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
from service.schemas import Mistake, Problem

# what a client is told in full: what it asked for or sent, and what the bar store has of a symbol
SHOWN: dict[type[ForecasterError], HTTPStatus] = {
    UnknownModel: HTTPStatus.NOT_FOUND,
    UnknownSymbol: HTTPStatus.NOT_FOUND,
    MarketDataError: HTTPStatus.CONFLICT,
    SeriesError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooShortError: HTTPStatus.UNPROCESSABLE_ENTITY,
    CalendarError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
# what any route that needs a key may answer
ANY_ROUTE = (401, 403, 429, 503)
# when a client whose request cannot be answered just now may come again
RETRY_AFTER_SECONDS = 2
_log = logging.getLogger("forecaster.service")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told of a route's problems; those that any route may answer with are among them."""
    told = sorted({*ANY_ROUTE, *statuses})
    content: dict[str, Any] = {"application/problem+json": {}}
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": content} for status in told}


def shortened(text: str, most: int = 5000) -> str:
    """Return at most `most` characters: names in it may be a client's own, and as long as a body."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def problem(
    status: int, detail: str, mistakes: list[Mistake] | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an error as `application/problem+json`."""
    detail = shortened(detail)
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=mistakes or [])
    return JSONResponse(content.model_dump(), status, headers, media_type="application/problem+json")


def spell(
    request: Request,
    status: int,
    detail: str,
    mistakes: list[Mistake] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return an error as the request's protocol spells it: as a problem, below `/v2` as the Open Inference Protocol."""
    if request.scope["path"].split("/")[1:2] != ["v2"]:
        return problem(status, detail, mistakes, headers)
    is_bad = status == HTTPStatus.UNPROCESSABLE_ENTITY
    content = InferenceProblem(error=shortened(detail)).model_dump()
    return JSONResponse(content, HTTPStatus.BAD_REQUEST if is_bad else status, headers)


def refuse(refusal: ServiceError) -> JSONResponse:
    """Return a refusal as a problem, before any route is known."""
    return problem(refusal.status, str(refusal), refusal.mistakes, refusal.headers)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""

    @app.exception_handler(ForecasterError)
    async def on_domain_error(request: Request, error: ForecasterError) -> JSONResponse:
        if isinstance(error, ServiceError):
            return spell(request, error.status, str(error), error.mistakes, error.headers)
        if isinstance(error, DatabaseUnavailable):
            _log.error("%s", error)
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            detail = "the ledger cannot be read or written just now; try again in a moment"
            return spell(request, HTTPStatus.SERVICE_UNAVAILABLE, detail, None, headers)
        for kind, status in SHOWN.items():
            if isinstance(error, kind):
                return spell(request, status, str(error))
        _log.error("%s", error, exc_info=error)
        detail = "the service cannot use something of its own; the reason is in its log, under this request's id"
        return spell(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)

    @app.exception_handler(RequestValidationError)
    async def on_wrong_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [
            Mistake(location=".".join(str(part) for part in one["loc"]), message=one["msg"]) for one in error.errors()
        ]
        mistakes = MalformedBody(found)
        return spell(request, mistakes.status, str(mistakes), found)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        return spell(request, error.status_code, str(error.detail), None, dict(error.headers or {}))
