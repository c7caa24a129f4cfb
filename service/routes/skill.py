"""What came says how good the forecasts were."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from forecaster.ledger.skill import GROUPS, GroupSkill, realised_skill
from service.catalog import find_model
from service.dependencies import CallerDep, ForecastServiceDep, ModelStoreDep
from service.problems import responses
from service.schemas import DriftOut, DriftsOut, Name, RealisedOut, RealisedSkill, Time, VersionDrift
from service.timestamps import instant

router = APIRouter(prefix="/v1", tags=["truth"])


@router.get("/skill", responses=responses(422))
async def read_skill(
    forecast_service: ForecastServiceDep,
    caller: CallerDep,
    model: str,
    by: Annotated[str | None, Query(json_schema_extra={"enum": [*GROUPS]})] = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    unique_id: Name | None = None,
    since: Time | None = None,
    is_shadow: Annotated[bool, Query(description="of a challenger's forecasts, which nobody saw")] = False,
) -> RealisedSkill:
    """Return the realised skill of a model for the key's owner: error beside the last value's, bias, coverage."""

    def read() -> list[GroupSkill]:
        return realised_skill(
            forecast_service.engine,
            model,
            by,
            version=version,
            unique_id=unique_id,
            since=None if since is None else instant(since),
            is_shadow=is_shadow,
            owner=caller.sees,
        )

    found = await run_in_threadpool(read)
    return RealisedSkill(model=model, by=by, realised=[RealisedOut(**_spelt(one, by)) for one in found])


@router.get("/drift", responses=responses(404, 422))
async def read_drift(
    forecast_service: ForecastServiceDep, caller: CallerDep, model_store: ModelStoreDep, model: str
) -> DriftsOut:
    """Return how far what the key's owner asks a model with has moved from what it was trained on."""
    seen = forecast_service.recorder.drift.read(find_model(model_store.catalog, model).name, caller.sees)
    versions = [
        VersionDrift(
            version=version,
            n_values=count,
            drift={what: DriftOut(psi=one.psi, ks=one.ks) for what, one in drifts.items()},
        )
        for version, (count, drifts) in sorted(seen.items())
    ]
    return DriftsOut(model=model, versions=versions)


def _spelt(one: GroupSkill, by: str | None) -> dict[str, Any]:
    fields = dict(vars(one))
    if by == "day":
        # a time zone may put a day before the year 1 or behind 9999, which Python's own dates do not know
        fields["group"] = str(np.datetime64(int(one.group or 0), "D"))
    return fields
