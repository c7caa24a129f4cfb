"""What came."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from forecaster.domain.errors import RequestError
from forecaster.ledger.scoring import Actual, take_actuals
from service.dependencies import AccountsDep, ActualsBody, CallerDep, request_body
from service.problems import responses
from service.schemas import ActualsOut
from service.timestamps import instant

router = APIRouter(prefix="/v1/actuals", tags=["truth"])


@router.post("", responses=responses(408, 413, 422), openapi_extra=request_body("ActualsRequest"))
async def create_actuals(body: ActualsBody, accounts: AccountsDep, caller: CallerDep) -> ActualsOut:
    """Take values that came, and score the owner's forecasts of their times; all owners', with the scope `all`."""
    taken, most = body.actuals, accounts.settings.max_actuals
    if len(taken) > most:
        raise RequestError(f"actuals: {len(taken)} are more than {most}; send them in several requests")

    def take() -> int:
        actuals = [Actual(one.unique_id, instant(one.ds), one.y) for one in taken]
        return take_actuals(accounts.upkeep, actuals, caller.owner, is_for_all=caller.is_for_all)

    return ActualsOut(accepted=len(taken), changed=await run_in_threadpool(take))
