"""For whoever runs the service."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.dependencies import AccountsDep, MetricsDep, ShelfDep
from service.problems import responses

router = APIRouter(tags=["operations"])


@router.get("/metrics", responses=responses(), response_class=Response)
async def read_metrics(metrics: MetricsDep, shelf: ShelfDep, accounts: AccountsDep) -> Response:
    """Return the figures of this process in Prometheus' text format."""
    metrics.waiting.set(accounts.writer.n_waiting)
    shelf.tell_ages()
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
