"""Forecasts."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.dependencies import ForecastBody, ShelfDep
from service.forecasting import forecast
from service.problems import RESPONSES
from service.schemas import ForecastResponse

router = APIRouter(prefix="/v1/forecasts", tags=["forecasts"])

# the body is read by a dependency, so OpenAPI is told of it here
_REQUEST_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ForecastRequest"}}},
}


@router.post("", response_model=ForecastResponse, responses=RESPONSES, openapi_extra={"requestBody": _REQUEST_BODY})
async def create_forecast(body: ForecastBody, shelf: ShelfDep) -> JSONResponse:
    """Forecast each series from its history."""
    # the answer is built to the schema and sent as it is; validating it again would only cost time
    return JSONResponse(await run_in_threadpool(forecast, body, shelf.catalog, shelf.settings))
