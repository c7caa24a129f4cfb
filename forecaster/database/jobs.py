"""Jobs that the service asks of the scheduler: a retraining, and the evidence for it."""

from sqlalchemy import Engine, insert, select

from forecaster.database.engine import transaction
from forecaster.database.tables import JOBS
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
        connection.execute(insert(JOBS).values(row))
    return True
