"""Jobs that the service asks of the scheduler: a retraining, and the evidence for it."""

import time

from sqlalchemy import Engine, insert, select

from forecaster.database.engine import transaction
from forecaster.database.tables import JOBS

RETRAIN = "retrain"


def ask_for_retraining(engine: Engine, model: str, reason: str) -> bool:
    """Ask for a model's retraining unless one is asked for that has not ended; say whether it was.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    waiting = select(JOBS.c.job_id).where(JOBS.c.model == model, JOBS.c.kind == RETRAIN, JOBS.c.ended_at.is_(None))
    row = {"kind": RETRAIN, "model": model, "reason": reason, "asked_at": time.time_ns() // 1000}
    with transaction(engine) as connection:
        if connection.execute(waiting.limit(1)).first() is not None:
            return False
        connection.execute(insert(JOBS).values(row))
    return True
