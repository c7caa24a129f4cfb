"""Health checks: liveness and readiness."""

from typing import Any

from fastapi import APIRouter, Request, Response, status

from service.dependencies import ModelStoreDep
from service.responses import Liveness, Readiness

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def read_liveness() -> Liveness:
    """Return 200 while the process runs."""
    return Liveness(status="live")


@router.get("/ready", responses={503: {"model": Readiness, "description": "not ready"}})
async def read_readiness(request: Request, model_store: ModelStoreDep, response: Response) -> Readiness:
    """Return whether the service can forecast, the versions that it serves, and current problems."""
    served: dict[str, Any] = {name: dict(model.index.aliases) for name, model in model_store.catalog.items()}
    state = request.app.state
    # every forecast must be written to the ledger
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
