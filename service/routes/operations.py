"""Operations: Prometheus metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.dependencies import ForecastServiceDep, MetricsDep, ModelStoreDep
from service.problems import responses

router = APIRouter(tags=["operations"])


@router.get("/metrics", responses=responses(), response_class=Response)
async def read_metrics(
    metrics: MetricsDep, model_store: ModelStoreDep, forecast_service: ForecastServiceDep
) -> Response:
    """Return this process's metrics in the Prometheus text format."""
    metrics.waiting.set(forecast_service.writer.n_waiting)
    model_store.update_version_gauges()
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
