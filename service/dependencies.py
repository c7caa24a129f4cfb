"""What routes depend on: model store, forecast service, a slot, and a body read within limits and validated."""

import asyncio
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.catalog import ModelStore
from service.exceptions import BodyTooLarge, BodyTooSlow, MalformedBody
from service.forecast_service import ForecastService
from service.keyring import Caller
from service.limits import LARGE_BYTES, Holding, Limits
from service.metrics import Metrics
from service.problems import shortened
from service.schemas import Mistake
from service.settings import Settings

MOST_MISTAKES_SAID = 20
_MOST_MISTAKES_MADE = 1000


def _from_state(name: str) -> Any:
    """Return a dependency that gives what the application keeps under a name."""

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


def allow(scope: str) -> Any:
    """Return a dependency that lets in who may do `scope`, as often as they may.

    It raises NotAuthenticated, NotAllowed, KeysUnknown and TooManyRequests, before the body is read.
    """

    async def check(request: Request) -> None:
        state = request.app.state
        await state.keyring.wait()
        caller = state.keyring.check(request.headers.get("authorization", ""), scope)
        request.state.caller, request.state.client = caller, caller.client
        state.limits.rates.check(caller.client or (request.client.host if request.client else ""))

    return Depends(check)


Content = TypeVar("Content", bound=BaseModel)


async def acquire_slot(request: Request, *, is_large: bool) -> None:
    """Wait for a slot to compute in. Large requests are computed one at a time, for their results take memory too.

    Raises:
        ClientDisconnect: nobody waits for it any more.
    """
    limits: Limits = request.app.state.limits
    await request.state.holding.acquire_slot(limits.large if is_large else limits.small)
    if await request.is_disconnected():
        raise ClientDisconnect


async def parsed(request: Request, schema: type[Content], raw: bytes) -> Content:
    """Return a body as its schema; a large one is read in its turn by another thread, while others are answered.

    Raises:
        ClientDisconnect: nobody waits for it any more.
        BodyTooLarge, MalformedBody: as `parse_body` says.
    """
    most = request.app.state.settings.max_values
    if len(raw) > LARGE_BYTES:
        await acquire_slot(request, is_large=True)
        return await run_in_threadpool(parse_body, schema, raw, most)
    return parse_body(schema, raw, most)


def parse_body(schema: type[Content], raw: bytes, most_values: int) -> Content:
    """Return a body, or what of it is JSON, as its schema.

    Parsed by pydantic from the bytes, which is faster than through Python objects, and says where without what: a value
    is never echoed.

    Raises:
        BodyTooLarge: it has more than `most_values` values, each of which takes many times its bytes in memory.
        MalformedBody: it is not JSON or not what the schema asks for.
    """
    # each value but the first is behind one of these; those inside of strings count too
    if len(raw) > most_values and sum(map(raw.count, (b",", b"[", b"{"))) > most_values:
        raise BodyTooLarge(f"the body has more than {most_values} values; ask in several requests")
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        if error.error_count() > _MOST_MISTAKES_MADE:
            # to list them would take longer than to answer
            message = f"{error.error_count()} mistakes, too many to list; compare it with the schema"
            raise MalformedBody([Mistake(location="body", message=message)]) from None
        raise MalformedBody(_mistakes(error)) from None


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return a request's body.

    Raises:
        BodyTooLarge: it is beyond the limit.
        BodyTooSlow: it does not come in time.
        TooBusy: other requests' bodies take all of the memory.
    """
    raw = bytearray()
    holding: Holding = request.state.holding
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > settings.max_body_bytes:
                    raise BodyTooLarge(
                        f"the body is larger than {settings.max_body_bytes} bytes; ask in several requests"
                    )
                holding.body.hold(len(raw))
    except TimeoutError:
        raise BodyTooSlow(f"the body did not come within {settings.body_timeout_seconds:g} s; send it again") from None
    return bytes(raw)


def _mistakes(error: ValidationError) -> list[Mistake]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [Mistake(location=_path(mistake["loc"]), message=mistake["msg"]) for mistake in found[:MOST_MISTAKES_SAID]]


def request_body(schema: str) -> dict[str, Any]:
    """Return what tells OpenAPI of a body that a dependency reads, and that it cannot see by itself."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    # the keys are the client's own
    return shortened(path.lstrip("."), 200) or "body"
