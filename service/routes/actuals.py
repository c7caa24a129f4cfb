"""Actuals: the observed values that score forecasts."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from forecaster.domain.errors import RequestError
from forecaster.ledger.scoring import Actual, record_actuals
from service.dependencies import CallerDep, ForecastServiceDep, parse_request, read_body, request_body
from service.problems import responses
from service.requests import ActualsRequest
from service.responses import ActualsOut
from service.timestamps import instant

router = APIRouter(prefix="/v1/actuals", tags=["evaluation"])


@router.post("", responses=responses(408, 413, 422), openapi_extra=request_body("ActualsRequest"))
async def create_actuals(request: Request, forecast_service: ForecastServiceDep, caller: CallerDep) -> ActualsOut:
    """Store actuals and score the forecasts of the same series and times.

    They score the forecasts of the API key's owner, or of all owners if the key has the scope `all`.
    """
    limits, resources = request.app.state.limits, request.state.resources
    raw = await read_body(request, forecast_service.settings)
    # first the scoring slot: a request that waits for it must not hold the slot for parsing
    await resources.acquire_slot(limits.scoring)
    body, max_actuals = await parse_request(request, ActualsRequest, raw), forecast_service.settings.max_actuals
    del raw
    resources.body.resize(0)
    if len(body.actuals) > max_actuals:
        raise RequestError(
            f"actuals: {len(body.actuals)} actuals, at most {max_actuals} are allowed; split them into several requests"
        )
    actuals = await run_in_threadpool(_as_actuals, body)
    del body
    resources.release_slot(limits.large)
    engine = forecast_service.maintenance_engine
    record = partial(record_actuals, engine, actuals, caller.owner, is_for_all=caller.is_for_all)
    return ActualsOut(accepted=len(actuals), changed=await run_in_threadpool(record))


def _as_actuals(body: ActualsRequest) -> list[Actual]:
    return [Actual(actual.unique_id, instant(actual.ds), actual.y) for actual in body.actuals]
