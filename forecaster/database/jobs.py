"""Jobs that the service asks of the scheduler: a retraining, and the evidence for it."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, select, update

from forecaster.database.engine import insert_or, transaction
from forecaster.database.tables import JOBS, RUNS
from forecaster.domain.instants import DAY, now_at

RETRAIN = "retrain"


def ask_for_retraining(engine: Engine, model: str, reason: str) -> bool:
    """Ask for a model's retraining unless one waits or was asked for within a day; say whether it was.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    now = now_at()
    # what came before a retraining is still evidence after it
    is_enough = JOBS.c.ended_at.is_(None) | (JOBS.c.asked_at > now - DAY)
    waiting = select(JOBS.c.job_id).where(JOBS.c.model == model, JOBS.c.kind == RETRAIN, is_enough)
    row = {"kind": RETRAIN, "model": model, "reason": reason, "asked_at": now}
    with transaction(engine) as connection:
        if connection.execute(waiting.limit(1)).first() is not None:
            return False
        # another service may have asked meanwhile
        statement = insert_or(connection, JOBS).values(row).on_conflict_do_nothing()
        return bool(connection.execute(statement).rowcount)


@dataclass(frozen=True)
class Asked:
    """A retraining that waits."""

    job_id: int
    model: str
    asked_at: int


def waiting_retrainings(connection: Connection, taken_before: int, model: str | None = None) -> list[Asked]:
    """Return the retrainings that nobody has taken, the oldest first, of one model or of all.

    Args:
        connection: of a transaction.
        taken_before: microseconds since 1970; one taken before then that no run was recorded of waits again.
        model: whose.
    """
    mine = _is_free(taken_before) & (JOBS.c.kind == RETRAIN)
    if model is not None:
        mine &= JOBS.c.model == model
    wanted = select(JOBS.c.job_id, JOBS.c.model, JOBS.c.asked_at).where(mine).order_by(JOBS.c.asked_at, JOBS.c.job_id)
    return [Asked(row.job_id, row.model, row.asked_at) for row in connection.execute(wanted)]


def take(connection: Connection, job_id: int, taken_before: int) -> bool:
    """Take a retraining that waits; of several takers one is told that it has it."""
    mine = (JOBS.c.job_id == job_id) & _is_free(taken_before)
    return bool(connection.execute(update(JOBS).where(mine).values(taken_at=now_at())).rowcount)


def end(connection: Connection, job_id: int, outcome: str) -> None:
    """Write what came of a retraining, once."""
    mine = (JOBS.c.job_id == job_id) & JOBS.c.ended_at.is_(None)
    connection.execute(update(JOBS).where(mine).values(ended_at=now_at(), outcome=outcome))


def _is_free(taken_before: int) -> ColumnElement[bool]:
    # a run is recorded with the taking; whoever takes otherwise may have died
    is_abandoned = (JOBS.c.taken_at < taken_before) & JOBS.c.job_id.not_in(
        select(RUNS.c.asked_id).where(RUNS.c.asked_id.is_not(None))
    )
    return JOBS.c.ended_at.is_(None) & (JOBS.c.taken_at.is_(None) | is_abandoned)
