"""Actuals: the values that a forecast is scored by."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from forecaster.domain.errors import RequestError
from forecaster.ledger.scoring import Actual, record_actuals
from service.dependencies import CallerDep, ForecastServiceDep, parsed, read_body, request_body
from service.problems import responses
from service.schemas import ActualsOut, ActualsRequest
from service.timestamps import instant

router = APIRouter(prefix="/v1/actuals", tags=["truth"])


@router.post("", responses=responses(408, 413, 422), openapi_extra=request_body("ActualsRequest"))
async def create_actuals(request: Request, forecast_service: ForecastServiceDep, caller: CallerDep) -> ActualsOut:
    """Take actuals, and score the owner's forecasts of their times; all owners', with the scope `all`."""
    limits, holding = request.app.state.limits, request.state.holding
    raw = await read_body(request, forecast_service.settings)
    # before the slot to parse in, or that would be kept from others as long as scoring takes
    await holding.acquire_slot(limits.scoring)
    body, most = await parsed(request, ActualsRequest, raw), forecast_service.settings.max_actuals
    del raw
    holding.body.hold(0)
    if len(body.actuals) > most:
        raise RequestError(f"actuals: {len(body.actuals)} are more than {most}; send them in several requests")
    actuals = await run_in_threadpool(_as_actuals, body)
    del body
    holding.release_slot(limits.large)
    take = partial(record_actuals, forecast_service.upkeep, actuals, caller.owner, is_for_all=caller.is_for_all)
    return ActualsOut(accepted=len(actuals), changed=await run_in_threadpool(take))


def _as_actuals(body: ActualsRequest) -> list[Actual]:
    return [Actual(one.unique_id, instant(one.ds), one.y) for one in body.actuals]
