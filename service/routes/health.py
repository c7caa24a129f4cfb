"""Is the process alive, and does it answer forecasts?"""

from typing import Any

from fastapi import APIRouter, Response, status

from service.dependencies import ShelfDep
from service.schemas import Liveness, Readiness

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def read_liveness() -> Liveness:
    """Say that the process answers."""
    return Liveness(status="live")


@router.get("/ready", responses={503: {"model": Readiness, "description": "no model can be served yet"}})
async def read_readiness(shelf: ShelfDep, response: Response) -> Readiness:
    """Say whether forecasts are answered, of which versions, and what went wrong last."""
    served: dict[str, Any] = {name: dict(model.index.aliases) for name, model in shelf.catalog.items()}
    if not served:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(status="ready" if served else "not ready", models=served, last_problem=shelf.last_problem)
