"""Forecasts: made, and looked up in the ledger."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.background import BackgroundTask

from forecaster.domain.errors import ForecasterError
from forecaster.ledger.reading import Answered, find_forecast, forecast_size, latest_forecasts
from service.catalog import Catalog
from service.dependencies import CallerDep, ForecastServiceDep, acquire_slot, parsed, read_body, request_body
from service.exceptions import MalformedBody, UnknownForecast
from service.forecast_queue import RequestContext
from service.forecast_service import digest_body
from service.forecasting import plan
from service.limits import LARGE_BYTES
from service.problems import responses
from service.schemas import ForecastRequest, ForecastResponse, Mistake, Name, StoredForecast, StoredForecasts
from service.timestamps import spell_instant

router = APIRouter(prefix="/v1/forecasts", tags=["forecasts"])
NDJSON = "application/x-ndjson"
MOST_KEY = 255

_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "asked again under the same key, the same is answered",
        "schema": {"type": "string", "minLength": 1, "maxLength": MOST_KEY},
    },
    {
        "name": "Accept",
        "in": "header",
        "description": f"with `{NDJSON}` a line of what the forecasts have in common, then a line for each",
        "schema": {"type": "string"},
    },
]


@router.post(
    "",
    response_model=ForecastResponse,
    responses=responses(404, 408, 409, 413, 422) | {200: {"content": {NDJSON: {}}}},
    openapi_extra=request_body("ForecastRequest") | {"parameters": _HEADERS},
)
async def create_forecast(request: Request) -> Response:
    """Forecast each series from its history; the ledger has each forecast before it is answered."""
    # read by hand: for small requests FastAPI's own way takes as long as the forecast
    state, holding = request.app.state, request.state.holding
    raw = await read_body(request, state.settings)
    catalog, forecast_service = state.model_store.catalog, state.forecast_service
    async with state.limits.room():
        asked = await parsed(request, ForecastRequest, raw)
        try:
            planned = plan(asked, catalog, state.settings)
        except ForecasterError as error:
            return await _replay(request, raw, error)
        is_large = planned.is_large or len(raw) > LARGE_BYTES
        if is_large:
            holding.answer.hold(planned.n_bytes)
        if is_large or asked.unique_ids:
            await acquire_slot(request, is_large=is_large)
        context = await run_in_threadpool(_asking, request, raw) if is_large else _asking(request, raw)
        # what waits below is the answer
        del raw
        holding.body.hold(0)
        answered, is_new = await forecast_service.answer(asked, catalog, context, is_large=is_large)
    has_shadow = is_new and forecast_service.has_shadow(asked, catalog)
    background = BackgroundTask(_shadow, request, asked, catalog, context, is_large) if has_shadow else None
    is_lines = _takes_lines(request.headers.get("accept", ""))
    content = await run_in_threadpool(_text, answered, is_lines) if is_large else _text(answered, is_lines)
    holding.answer.hold(min(len(content), planned.n_bytes))
    holding.release_slot(state.limits.large)
    holding.release_slot(state.limits.small)
    return Response(content, media_type=NDJSON if is_lines else "application/json", background=background)


async def _replay(request: Request, raw: bytes, error: ForecasterError) -> Response:
    """Answer as the first time a request that cannot be planned any more, for its version may be gone by now.

    Raises:
        ForecasterError: `error`, where nothing was answered under its idempotency key.
    """
    if "idempotency-key" not in request.headers:
        raise error
    state, holding = request.app.state, request.state.holding
    await acquire_slot(request, is_large=True)
    before = await state.forecast_service.find_answered(await run_in_threadpool(_asking, request, raw))
    if before is None:
        raise error
    is_lines = _takes_lines(request.headers.get("accept", ""))
    content = await run_in_threadpool(_text, before, is_lines)
    holding.answer.hold(len(content))
    holding.release_slot(state.limits.large)
    return Response(content, media_type=NDJSON if is_lines else "application/json")


async def _shadow(
    request: Request, asked: ForecastRequest, catalog: Catalog, context: RequestContext, is_large: bool
) -> None:
    limits = request.app.state.limits
    await request.state.holding.acquire_slot(limits.large if is_large else limits.small)
    await run_in_threadpool(request.app.state.forecast_service.shadow, asked, catalog, context)


def _asking(request: Request, raw: bytes) -> RequestContext:
    caller = request.state.caller
    key = request.headers.get("idempotency-key")
    if key is None:
        return RequestContext(caller.client, caller.owner)
    if not 1 <= len(key) <= MOST_KEY:
        raise MalformedBody([Mistake(location="Idempotency-Key", message=f"must have 1 to {MOST_KEY} characters")])
    return RequestContext(caller.client, caller.owner, key, digest_body(raw))


@router.get("/{forecast_id}", response_model=StoredForecast, responses=responses(404))
async def read_forecast(
    request: Request, forecast_id: Name, forecast_service: ForecastServiceDep, caller: CallerDep
) -> Response:
    """Return a forecast of the key's owner as it was served, and its actuals."""
    size = await run_in_threadpool(forecast_size, forecast_service.engine, forecast_id, caller.sees)
    await acquire_slot(request, is_large=size > LARGE_BYTES)

    def read() -> bytes:
        found = find_forecast(forecast_service.engine, forecast_id, caller.sees)
        if found is None:
            raise UnknownForecast(f"there is no forecast '{forecast_id}'; it may have been deleted")
        return _stored(found).model_dump_json().encode()

    return Response(await run_in_threadpool(read), media_type="application/json")


@router.get("", response_model=StoredForecasts, responses=responses(422))
async def list_forecasts(
    request: Request,
    forecast_service: ForecastServiceDep,
    caller: CallerDep,
    model: str,
    unique_id: Name | None = None,
    is_shadow: bool | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """Return the last forecasts of a model, of one series or of all, newest first, that keys of this owner asked for.

    `is_shadow=false` leaves out a challenger's, `is_shadow=true` all others.
    """
    await acquire_slot(request, is_large=False)

    def read() -> bytes:
        found = latest_forecasts(forecast_service.engine, model, unique_id, limit, caller.sees, is_shadow)
        return StoredForecasts(forecasts=[_stored(one) for one in found]).model_dump_json().encode()

    return Response(await run_in_threadpool(read), media_type="application/json")


def _stored(found: dict[str, Any]) -> StoredForecast:
    return StoredForecast(**found | {"answered_at": spell_instant(found["answered_at"])})


def _takes_lines(accept: str) -> bool:
    """Say whether an `Accept` header names lines, and does not rule them out by a weight of 0."""
    for one in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        if kind == NDJSON:
            return not any(re.fullmatch(r"q=0(\.0*)?", part) for part in parameters)
    return False


def _text(answered: Answered, is_lines: bool) -> bytes:
    """Return an answer's parts, which are JSON already, as lines or as one object."""
    if is_lines:
        return "".join(f"{line}\n" for line in (answered.head, *answered.forecasts)).encode()
    return f'{answered.head[:-1]},"forecasts":[{",".join(answered.forecasts)}]}}'.encode()
