"""Forecasts: made, and looked up in the ledger."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from forecaster.ledger.reading import Answered, find_forecast, latest_forecasts
from service.accounts import Asking, digest_body
from service.dependencies import AccountsDep, ClientDep, ForecastBody, LimitsDep, ShelfDep, request_body
from service.problems import responses
from service.refusals import UnknownForecast
from service.schemas import ForecastResponse, StoredForecast, StoredForecasts
from service.timestamps import spell_instant

router = APIRouter(prefix="/v1/forecasts", tags=["forecasts"])
NDJSON = "application/x-ndjson"


@router.post(
    "",
    response_model=ForecastResponse,
    responses=responses(404, 408, 409, 413, 422) | {200: {"content": {NDJSON: {}}}},
    openapi_extra=request_body("ForecastRequest"),
)
async def create_forecast(
    request: Request,
    body: ForecastBody,
    shelf: ShelfDep,
    accounts: AccountsDep,
    limits: LimitsDep,
    client: ClientDep,
    background: BackgroundTasks,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Forecast each series from its history.

    With `Accept: application/x-ndjson` the answer is a line of what the forecasts have in common, and a line for each.
    """
    asking = Asking(client, idempotency_key, digest_body(body.raw) if idempotency_key else None)
    catalog = shelf.catalog
    async with limits.room():
        answered = await accounts.answer(body.parsed, catalog, asking)
    if accounts.settings.shadow_share:
        background.add_task(accounts.shadow, body.parsed, catalog, asking)
    if NDJSON in accept:
        lines = "".join(f"{line}\n" for line in (answered.head, *answered.forecasts))
        return Response(lines, media_type=NDJSON, background=background)
    return Response(_as_one(answered), media_type="application/json", background=background)


@router.get("/{forecast_id}", responses=responses(404))
async def read_forecast(forecast_id: str, accounts: AccountsDep) -> StoredForecast:
    """Return a forecast as it was served, and what came."""
    found = await run_in_threadpool(find_forecast, accounts.engine, forecast_id)
    if found is None:
        raise UnknownForecast(f"there is no forecast '{forecast_id}'; it may have been deleted")
    return StoredForecast(**found | {"answered_at": spell_instant(found["answered_at"])})


@router.get("", responses=responses(422))
async def list_forecasts(
    accounts: AccountsDep, model: str, unique_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> StoredForecasts:
    """Return a series' last forecasts, newest first."""
    found = await run_in_threadpool(latest_forecasts, accounts.engine, model, unique_id, limit)
    return StoredForecasts(
        forecasts=[StoredForecast(**one | {"answered_at": spell_instant(one["answered_at"])}) for one in found]
    )


def _as_one(answered: Answered) -> str:
    """Return an answer's parts, which are JSON already, as one object."""
    return f'{answered.head[:-1]},"forecasts":[{",".join(answered.forecasts)}]}}'
