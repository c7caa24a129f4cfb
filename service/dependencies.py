"""FastAPI dependencies, and helpers that read and parse request bodies within limits."""

import asyncio
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.catalog import ModelStore
from service.exceptions import BodyTimeout, BodyTooLarge, MalformedBody
from service.forecast_service import ForecastService
from service.keyring import Caller
from service.limits import LARGE_BYTES, Limits, RequestResources
from service.metrics import Metrics
from service.problems import truncate
from service.responses import FieldError
from service.settings import Settings

MAX_ERRORS_LISTED = 20
_MAX_ERRORS = 1000


def _from_state(name: str) -> Any:
    """Return a dependency that yields an attribute of `app.state`."""

    async def get(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(get)


ModelStoreDep = Annotated[ModelStore, _from_state("model_store")]
ForecastServiceDep = Annotated[ForecastService, _from_state("forecast_service")]
LimitsDep = Annotated[Limits, _from_state("limits")]
MetricsDep = Annotated[Metrics, _from_state("metrics")]


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


async def authorize(request: Request, scope: str) -> None:
    """Authenticate a request, require a scope of its key and apply the rate limit, before the body is read.

    Raises:
        NotAuthenticated: the request has no valid API key.
        PermissionDenied: the key lacks the scope.
        KeysUnavailable: the keys have not been read yet.
        TooManyRequests: the client exceeds its rate limit.
    """
    state = request.app.state
    await state.keyring.wait()
    caller = state.keyring.check(request.headers.get("authorization", ""), scope)
    request.state.caller, request.state.client = caller, caller.client
    state.limits.rate_limiter.check(caller.client or (request.client.host if request.client else ""))


def require_scope(scope: str) -> Any:
    """Return a dependency that authorizes a request; see `authorize`."""

    async def check(request: Request) -> None:
        await authorize(request, scope)

    return Depends(check)


Content = TypeVar("Content", bound=BaseModel)


async def acquire_slot(request: Request, *, is_large: bool) -> None:
    """Wait for a computing slot. Large requests are computed one at a time, because their results take memory too.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    limits: Limits = request.app.state.limits
    await request.state.resources.acquire_slot(limits.large if is_large else limits.small)
    if await request.is_disconnected():
        raise ClientDisconnect


async def parse_request(request: Request, schema: type[Content], raw: bytes) -> Content:
    """Parse and validate a request's body. Large bodies are parsed one at a time, in a worker thread.

    Raises:
        ClientDisconnect: the client has disconnected.
        BodyTooLarge, MalformedBody: as for `parse_body`.
    """
    max_values = request.app.state.settings.max_values
    if len(raw) > LARGE_BYTES:
        await acquire_slot(request, is_large=True)
        return await run_in_threadpool(parse_body, schema, raw, max_values)
    return parse_body(schema, raw, max_values)


def parse_body(schema: type[Content], raw: bytes, max_values: int) -> Content:
    """Parse and validate a JSON body.

    Pydantic parses the bytes directly, which is faster than building Python objects first. Errors name the location
    but never repeat the value.

    Raises:
        BodyTooLarge: the body has more than `max_values` values; each takes many times its bytes in memory.
        MalformedBody: the body is not JSON, or does not match the schema.
    """
    # each value but the first follows one of these characters; characters inside strings are counted too
    if len(raw) > max_values and sum(map(raw.count, (b",", b"[", b"{"))) > max_values:
        raise BodyTooLarge(f"the body has more than {max_values} values; split it into several requests")
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        if error.error_count() > _MAX_ERRORS:
            # listing them would take longer than forecasting
            message = f"{error.error_count()} errors, too many to list; compare the body with the schema"
            raise MalformedBody([FieldError(location="body", message=message)]) from None
        raise MalformedBody(_field_errors(error)) from None


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return a request's body.

    Raises:
        BodyTooLarge: the body is larger than the limit.
        BodyTimeout: the body does not arrive in time.
        ClientDisconnect: the client disconnects before the body is complete.
        Overloaded: the bodies of other requests take all the memory set aside for bodies.
    """
    parts: list[bytes] = []
    n_bytes, has_more = 0, True
    resources: RequestResources = request.state.resources
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            while has_more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                n_bytes, has_more = n_bytes + len(parts[-1]), message.get("more_body", False)
                if n_bytes > settings.max_body_bytes:
                    raise BodyTooLarge(
                        f"the body is larger than {settings.max_body_bytes} bytes; split it into several requests"
                    )
                resources.body.resize(n_bytes)
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {settings.body_timeout_seconds:g} s; retry") from None
    return b"".join(parts)


def _field_errors(error: ValidationError) -> list[FieldError]:
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return [FieldError(location=_path(detail["loc"]), message=detail["msg"]) for detail in details[:MAX_ERRORS_LISTED]]


def request_body(schema: str) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the route reads itself, which FastAPI does not see."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    # the location may contain keys that the client chose
    return truncate(path.lstrip("."), 200) or "body"
