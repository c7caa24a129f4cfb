"""What came, and what it says of the forecasts."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from forecaster.domain.errors import RequestError
from forecaster.ledger.scoring import Actual, take_actuals
from forecaster.ledger.skill import Realised, realised_skill
from service.dependencies import AccountsDep, ActualsBody, request_body
from service.problems import RESPONSES
from service.schemas import ActualsOut, RealisedOut, RealisedSkill
from service.timestamps import instant

router = APIRouter(prefix="/v1", tags=["truth"])


@router.post("/actuals", responses=RESPONSES, openapi_extra=request_body("ActualsRequest"))
async def create_actuals(body: ActualsBody, accounts: AccountsDep) -> ActualsOut:
    """Take values that came, and score the forecasts of their times."""
    taken, most = body.parsed.actuals, accounts.settings.max_actuals
    if len(taken) > most:
        raise RequestError(f"actuals: {len(taken)} are more than {most}; send them in several requests")
    actuals = [Actual(one.unique_id, instant(one.ds), one.y) for one in taken]
    changed = await run_in_threadpool(take_actuals, accounts.engine, actuals)
    return ActualsOut(accepted=len(actuals), changed=changed)


@router.get("/skill", responses={422: RESPONSES[422], 503: RESPONSES[503]})
async def read_skill(
    accounts: AccountsDep,
    model: str,
    by: Literal["version", "unique_id", "step", "day"] | None = None,
    version: int | None = None,
    unique_id: str | None = None,
    since: datetime | None = None,
    is_shadow: Annotated[bool, Query(description="of a challenger's forecasts, which nobody saw")] = False,
) -> RealisedSkill:
    """Return what came of a model's forecasts: error beside the last value's, bias, coverage."""

    def read() -> list[Realised]:
        return realised_skill(
            accounts.engine,
            model,
            by,
            version=version,
            unique_id=unique_id,
            since=None if since is None else instant(since),
            is_shadow=is_shadow,
        )

    found = await run_in_threadpool(read)
    return RealisedSkill(model=model, by=by, realised=[RealisedOut(**_spelt(one, by)) for one in found])


def _spelt(one: Realised, by: str | None) -> dict[str, Any]:
    fields = dict(vars(one))
    if by == "day":
        fields["group"] = datetime.fromtimestamp(int(one.group or 0) * 86400, UTC).date().isoformat()
    return fields
