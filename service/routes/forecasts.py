"""Forecasts: create them, and read them back from the ledger."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.background import BackgroundTask

from forecaster.domain.errors import ForecasterError
from forecaster.ledger.queries import StoredAnswer, find_forecast, forecast_size, latest_forecasts
from service.catalog import Catalog
from service.dependencies import CallerDep, ForecastServiceDep, acquire_slot, parse_request, read_body, request_body
from service.exceptions import MalformedBody, UnknownForecast
from service.forecast_queue import RequestContext
from service.forecast_service import digest_body
from service.forecasting import plan
from service.limits import LARGE_BYTES
from service.problems import responses
from service.requests import ForecastRequest, Name
from service.responses import FieldError, ForecastResponse, StoredForecast, StoredForecasts
from service.timestamps import format_instant

router = APIRouter(prefix="/v1/forecasts", tags=["forecasts"])
NDJSON = "application/x-ndjson"
MAX_KEY_LENGTH = 255

_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "a retry with the same key and body gets the same answer",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
    },
    {
        "name": "Accept",
        "in": "header",
        "description": f"`{NDJSON}` returns a first line with the fields shared by all forecasts, then a line for each",
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
    """Forecast each series from its history. Every forecast is stored in the ledger before it is returned."""
    # parse the body here: for small requests, FastAPI's validation takes as long as the forecast
    state, resources = request.app.state, request.state.resources
    raw = await read_body(request, state.settings)
    catalog, forecast_service = state.model_store.catalog, state.forecast_service
    with state.limits.admit():
        body = await parse_request(request, ForecastRequest, raw)
        try:
            planned = plan(body, catalog, state.settings)
        except ForecasterError as error:
            return await _replay(request, raw, error)
        is_large = planned.is_large or len(raw) > LARGE_BYTES
        if is_large:
            resources.answer.resize(planned.n_bytes)
        if is_large or body.unique_ids:
            await acquire_slot(request, is_large=is_large)
        context = await run_in_threadpool(_context, request, raw) if is_large else _context(request, raw)
        # free the body's memory while the request waits for its answer
        del raw
        resources.body.resize(0)
        answered, is_new = await forecast_service.answer(body, planned, context, is_large=is_large)
    has_shadow = is_new and forecast_service.has_shadow(body, catalog)
    background = BackgroundTask(_shadow, request, body, catalog, context, is_large) if has_shadow else None
    is_ndjson = _accepts_ndjson(request.headers.get("accept", ""))
    content = await run_in_threadpool(_serialize, answered, is_ndjson) if is_large else _serialize(answered, is_ndjson)
    resources.answer.resize(min(len(content), planned.n_bytes))
    resources.release_slot(state.limits.large)
    resources.release_slot(state.limits.small)
    return Response(content, media_type=NDJSON if is_ndjson else "application/json", background=background)


async def _replay(request: Request, raw: bytes, error: ForecasterError) -> Response:
    """Return the stored answer to a retried request whose version is no longer served.

    Raises:
        ForecasterError: `error`, if there is no stored answer under its idempotency key.
    """
    if "idempotency-key" not in request.headers:
        raise error
    state, resources = request.app.state, request.state.resources
    await acquire_slot(request, is_large=True)
    stored = await state.forecast_service.find_stored_answer(await run_in_threadpool(_context, request, raw))
    if stored is None:
        raise error
    is_ndjson = _accepts_ndjson(request.headers.get("accept", ""))
    content = await run_in_threadpool(_serialize, stored, is_ndjson)
    resources.answer.resize(len(content))
    resources.release_slot(state.limits.large)
    return Response(content, media_type=NDJSON if is_ndjson else "application/json")


async def _shadow(
    request: Request, body: ForecastRequest, catalog: Catalog, context: RequestContext, is_large: bool
) -> None:
    limits = request.app.state.limits
    await request.state.resources.acquire_slot(limits.large if is_large else limits.small)
    await run_in_threadpool(request.app.state.forecast_service.shadow, body, catalog, context)


def _context(request: Request, raw: bytes) -> RequestContext:
    caller = request.state.caller
    key = request.headers.get("idempotency-key")
    if key is None:
        return RequestContext(caller.client, caller.owner)
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise MalformedBody(
            [FieldError(location="Idempotency-Key", message=f"must have 1 to {MAX_KEY_LENGTH} characters")]
        )
    return RequestContext(caller.client, caller.owner, key, digest_body(raw))


@router.get("/{forecast_id}", response_model=StoredForecast, responses=responses(404))
async def read_forecast(
    request: Request, forecast_id: Name, forecast_service: ForecastServiceDep, caller: CallerDep
) -> Response:
    """Return a stored forecast of the API key's owner, with its actuals."""
    size = await run_in_threadpool(forecast_size, forecast_service.engine, forecast_id, caller.visible_owner)
    await acquire_slot(request, is_large=size > LARGE_BYTES)

    def read() -> bytes:
        found = find_forecast(forecast_service.engine, forecast_id, caller.visible_owner)
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
    """Return the last forecasts of a model, of one series or of all, newest first.

    Only forecasts of the API key's owner are returned. `is_shadow=false` leaves out a challenger's shadow forecasts,
    `is_shadow=true` all others.
    """
    await acquire_slot(request, is_large=False)

    def read() -> bytes:
        owner = caller.visible_owner
        found = latest_forecasts(forecast_service.engine, model, unique_id, limit, owner, is_shadow)
        return StoredForecasts(forecasts=[_stored(row) for row in found]).model_dump_json().encode()

    return Response(await run_in_threadpool(read), media_type="application/json")


def _stored(found: dict[str, Any]) -> StoredForecast:
    return StoredForecast(**found | {"answered_at": format_instant(found["answered_at"])})


def _accepts_ndjson(accept: str) -> bool:
    """Return whether an `Accept` header lists NDJSON with a weight above 0."""
    for media_range in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type == NDJSON:
            return not any(re.fullmatch(r"q=0(\.0*)?", part) for part in parameters)
    return False


def _serialize(answered: StoredAnswer, is_ndjson: bool) -> bytes:
    """Return an answer, whose parts are JSON already, as NDJSON or as one JSON object."""
    if is_ndjson:
        return "".join(f"{line}\n" for line in (answered.head, *answered.forecasts)).encode()
    return f'{answered.head[:-1]},"forecasts":[{",".join(answered.forecasts)}]}}'.encode()
