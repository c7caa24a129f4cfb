"""Realised skill of forecasts, and drift of inputs."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from forecaster.ledger.skill import GROUPS, GroupSkill, realised_skill
from service.catalog import find_model
from service.dependencies import CallerDep, ForecastServiceDep, ModelStoreDep
from service.problems import responses
from service.requests import Name, Time
from service.responses import DriftOut, DriftsOut, RealisedOut, RealisedSkill, VersionDrift
from service.timestamps import instant

router = APIRouter(prefix="/v1", tags=["evaluation"])


@router.get("/skill", responses=responses(422))
async def read_skill(
    forecast_service: ForecastServiceDep,
    caller: CallerDep,
    model: str,
    by: Annotated[str | None, Query(json_schema_extra={"enum": [*GROUPS]})] = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    unique_id: Name | None = None,
    since: Time | None = None,
    is_shadow: Annotated[bool, Query(description="score a challenger's unserved forecasts")] = False,
) -> RealisedSkill:
    """Return the realised skill of a model: error relative to the last value's, bias, coverage.

    It covers the forecasts of the API key's owner.
    """

    def read() -> list[GroupSkill]:
        return realised_skill(
            forecast_service.engine,
            model,
            by,
            version=version,
            unique_id=unique_id,
            since=None if since is None else instant(since),
            is_shadow=is_shadow,
            owner=caller.visible_owner,
        )

    found = await run_in_threadpool(read)
    return RealisedSkill(model=model, by=by, realised=[RealisedOut(**_fields(group, by)) for group in found])


@router.get("/drift", responses=responses(404, 422))
async def read_drift(
    forecast_service: ForecastServiceDep, caller: CallerDep, model_store: ModelStoreDep, model: str
) -> DriftsOut:
    """Return the drift of a model's inputs from its training data.

    It covers the requests of the API key's owner to this process.
    """
    inputs = forecast_service.queue.drift.read(find_model(model_store.catalog, model).name, caller.visible_owner)
    versions = [
        VersionDrift(
            version=version,
            n_values=count,
            drift={variable: DriftOut(psi=drift.psi, ks=drift.ks) for variable, drift in drifts.items()},
        )
        for version, (count, drifts) in sorted(inputs.items())
    ]
    return DriftsOut(model=model, versions=versions)


def _fields(realised: GroupSkill, by: str | None) -> dict[str, Any]:
    fields = dict(vars(realised))
    if by == "day":
        # numpy, because a time zone may move a day beyond the range of Python's dates
        fields["group"] = str(np.datetime64(int(realised.group or 0), "D"))
    return fields
