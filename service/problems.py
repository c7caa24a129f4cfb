"""Errors as RFC 9457 problems: one table from domain errors to statuses, and nothing of the inside in any answer."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from forecaster.domain.errors import (
    DataError,
    ForecasterError,
    RequestError,
    StaleData,
    UnknownModel,
    UnknownSymbol,
)
from service.protocol import InferenceProblem
from service.schemas import Mistake, Problem

STATUSES: dict[type[ForecasterError], HTTPStatus] = {
    UnknownModel: HTTPStatus.NOT_FOUND,
    UnknownSymbol: HTTPStatus.NOT_FOUND,
    StaleData: HTTPStatus.CONFLICT,
    DataError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
_TOLD = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
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


class BodyTooLarge(ForecasterError):
    """A body beyond the limit."""


def problem(status: int, detail: str, mistakes: list[Mistake] | None = None) -> JSONResponse:
    """Return an error as `application/problem+json`."""
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=mistakes or [])
    return JSONResponse(content.model_dump(), status, media_type="application/problem+json")


def spelt(request: Request, status: int, detail: str, mistakes: list[Mistake] | None = None) -> JSONResponse:
    """Return an error as the request's protocol spells it: as a problem, below `/v2` as the Open Inference Protocol."""
    if request.scope["path"].split("/")[1:2] != ["v2"]:
        return problem(status, detail, mistakes)
    is_bad = status == HTTPStatus.UNPROCESSABLE_ENTITY
    return JSONResponse(InferenceProblem(error=detail).model_dump(), HTTPStatus.BAD_REQUEST if is_bad else status)


def install(app: FastAPI) -> None:
    """Answer every error of `app` in the words of the request's protocol."""

    @app.exception_handler(ForecasterError)
    async def on_domain_error(request: Request, error: ForecasterError) -> JSONResponse:
        if isinstance(error, MalformedBody):
            return spelt(request, HTTPStatus.UNPROCESSABLE_ENTITY, str(error), error.mistakes)
        if isinstance(error, BodyTooLarge):
            return spelt(request, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        for kind, status in STATUSES.items():
            if isinstance(error, kind):
                return spelt(request, status, str(error))
        return await on_surprise(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        answer = spelt(request, error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def on_surprise(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return spelt(request, HTTPStatus.INTERNAL_SERVER_ERROR, "an unexpected error; it is in the service's log")
