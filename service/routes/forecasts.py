"""Forecasts: made, and looked up in the ledger."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.background import BackgroundTask

from forecaster.ledger.reading import Answered, find_forecast, latest_forecasts
from service.accounts import digest_body
from service.dependencies import AccountsDep, CallerDep, parsed, read_body, request_body
from service.problems import responses
from service.recorder import Asking
from service.refusals import MalformedBody, UnknownForecast
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
    state = request.app.state
    raw = await read_body(request, state.settings)
    asked = await parsed(ForecastRequest, raw)
    asking = _asking(request, raw)
    catalog, accounts = state.shelf.catalog, state.accounts
    async with state.limits.room():
        answered, is_new = await accounts.answer(asked, catalog, asking)
    has_shadow = is_new and state.settings.shadow_share
    background = BackgroundTask(accounts.shadow, asked, catalog, asking) if has_shadow else None
    if NDJSON in request.headers.get("accept", ""):
        lines = "".join(f"{line}\n" for line in (answered.head, *answered.forecasts))
        return Response(lines, media_type=NDJSON, background=background)
    return Response(_as_one(answered), media_type="application/json", background=background)


def _asking(request: Request, raw: bytes) -> Asking:
    caller = request.state.caller
    key = request.headers.get("idempotency-key")
    if key is None:
        return Asking(caller.client, caller.owner)
    if not 1 <= len(key) <= MOST_KEY:
        raise MalformedBody([Mistake(location="Idempotency-Key", message=f"must have 1 to {MOST_KEY} characters")])
    return Asking(caller.client, caller.owner, key, digest_body(raw))


@router.get("/{forecast_id}", responses=responses(404))
async def read_forecast(forecast_id: Name, accounts: AccountsDep, caller: CallerDep) -> StoredForecast:
    """Return a forecast of the key's owner as it was served, and its actuals."""
    found = await run_in_threadpool(find_forecast, accounts.engine, forecast_id, caller.sees)
    if found is None:
        raise UnknownForecast(f"there is no forecast '{forecast_id}'; it may have been deleted")
    return StoredForecast(**found | {"answered_at": spell_instant(found["answered_at"])})


@router.get("", responses=responses(422))
async def list_forecasts(
    accounts: AccountsDep,
    caller: CallerDep,
    model: str,
    unique_id: Name,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> StoredForecasts:
    """Return the last forecasts of a series, newest first, that keys of this owner asked for."""
    found = await run_in_threadpool(latest_forecasts, accounts.engine, model, unique_id, limit, caller.sees)
    return StoredForecasts(
        forecasts=[StoredForecast(**one | {"answered_at": spell_instant(one["answered_at"])}) for one in found]
    )


def _as_one(answered: Answered) -> str:
    """Return an answer's parts, which are JSON already, as one object."""
    return f'{answered.head[:-1]},"forecasts":[{",".join(answered.forecasts)}]}}'
