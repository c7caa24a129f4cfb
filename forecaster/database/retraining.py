"""Retraining requests: the service makes them, the scheduler claims and runs them. They live in the table `jobs`."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, select, update

from forecaster.database.engine import dialect_insert, transaction
from forecaster.database.tables import JOBS, RUNS
from forecaster.domain.instants import DAY, now_microseconds

RETRAIN = "retrain"


def request_retraining(engine: Engine, model: str, reason: str) -> bool:
    """Request a model's retraining, unless a request is open or was made within a day.

    Returns:
        whether a request was made.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    now = now_microseconds()
    # for a day after a request, most evidence still comes from before the retraining
    is_recent = JOBS.c.ended_at.is_(None) | (JOBS.c.asked_at > now - DAY)
    recent = select(JOBS.c.job_id).where(JOBS.c.model == model, JOBS.c.kind == RETRAIN, is_recent)
    row = {"kind": RETRAIN, "model": model, "reason": reason, "asked_at": now}
    with transaction(engine) as connection:
        if connection.execute(recent.limit(1)).first() is not None:
            return False
        # another service may have inserted a request since the check
        statement = dialect_insert(connection, JOBS).values(row).on_conflict_do_nothing()
        return bool(connection.execute(statement).rowcount)


@dataclass(frozen=True)
class RetrainRequest:
    """A retraining request that no run has claimed; `asked_at` is in microseconds since 1970."""

    job_id: int
    model: str
    asked_at: int


def open_requests(connection: Connection, claimed_before: int, model: str | None = None) -> list[RetrainRequest]:
    """Return the requests that can be claimed, the oldest first.

    Args:
        connection: a connection with a transaction.
        claimed_before: microseconds since 1970; a claim older than this that led to no run no longer counts.
        model: only requests for this model; for all models when None.
    """
    wanted = _can_be_claimed(claimed_before) & (JOBS.c.kind == RETRAIN)
    if model is not None:
        wanted &= JOBS.c.model == model
    query = select(JOBS.c.job_id, JOBS.c.model, JOBS.c.asked_at).where(wanted).order_by(JOBS.c.asked_at, JOBS.c.job_id)
    return [RetrainRequest(row.job_id, row.model, row.asked_at) for row in connection.execute(query)]


def claim_request(connection: Connection, job_id: int, claimed_before: int) -> bool:
    """Claim a request; return whether this call did. Of several concurrent calls only one returns True."""
    wanted = (JOBS.c.job_id == job_id) & _can_be_claimed(claimed_before)
    return bool(connection.execute(update(JOBS).where(wanted).values(taken_at=now_microseconds())).rowcount)


def close_request(connection: Connection, job_id: int, outcome: str) -> None:
    """Record the outcome of a request, unless it was recorded before."""
    wanted = (JOBS.c.job_id == job_id) & JOBS.c.ended_at.is_(None)
    connection.execute(update(JOBS).where(wanted).values(ended_at=now_microseconds(), outcome=outcome))


def _can_be_claimed(claimed_before: int) -> ColumnElement[bool]:
    # a claim and its run are written in one transaction, so an old claim without a run was abandoned
    is_abandoned = (JOBS.c.taken_at < claimed_before) & JOBS.c.job_id.not_in(
        select(RUNS.c.asked_id).where(RUNS.c.asked_id.is_not(None))
    )
    return JOBS.c.ended_at.is_(None) & (JOBS.c.taken_at.is_(None) | is_abandoned)
