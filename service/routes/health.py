"""Is the process alive, and does it answer forecasts?"""

from typing import Any

from fastapi import APIRouter, Request, Response, status

from service.dependencies import ModelStoreDep
from service.schemas import Liveness, Readiness

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def read_liveness() -> Liveness:
    """Say that the process answers."""
    return Liveness(status="live")


@router.get("/ready", responses={503: {"model": Readiness, "description": "no model can be served yet"}})
async def read_readiness(request: Request, model_store: ModelStoreDep, response: Response) -> Readiness:
    """Say whether forecasts are answered, of which versions, and what went wrong last."""
    served: dict[str, Any] = {name: dict(model.index.aliases) for name, model in model_store.catalog.items()}
    state = request.app.state
    # without the database no forecast can be accounted for
    database_problem = state.forecast_service.last_problem or state.keyring.last_problem
    has_database = state.keyring.keys is not None and state.forecast_service.writer.is_alive and not database_problem
    is_ready = bool(served) and has_database and not state.is_stopping
    if not is_ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    problems = [problem for problem in (model_store.last_problem, database_problem) if problem]
    return Readiness(
        status="ready" if is_ready else "stopping" if state.is_stopping else "not ready",
        models=served,
        last_problem="; ".join(problems) or None,
    )
