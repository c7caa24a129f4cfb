"""Forget: what is old, or all of a series, of a client or of an owner.

Forecasts are deleted some at a time, each with its scores and their part in the sums, so that others can write in
between. Where the database fails half-way the rest is still there, and the same call goes on. An answer that is not
whole any more is not repeated.
"""

from sqlalchemy import ColumnElement, Engine, delete, select, update

from forecaster.database.engine import transaction
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS, SCORES
from forecaster.ledger.tallies import lock_scores, tally

_AT_ONCE = 200


def forget_before(engine: Engine, at: int) -> int:
    """Delete what was answered before `at`, microseconds since 1970, and actuals of then; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        connection.execute(delete(REQUESTS).where(REQUESTS.c.answered_at < at))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.received_at < at, ACTUALS.c["at"] < at))
    return _forget(engine, FORECASTS.c.answered_at < at)


def forget_series(engine: Engine, unique_id: str) -> int:
    """Delete all forecasts and actuals of a series, of all owners; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    asked = select(FORECASTS.c.request_id).where(FORECASTS.c.unique_id == unique_id)
    _end_repeats(engine, REQUESTS.c.request_id.in_(asked))
    count = _forget(engine, FORECASTS.c.unique_id == unique_id)
    with transaction(engine) as connection:
        is_empty = ~select(FORECASTS.c.request_id).where(FORECASTS.c.request_id == REQUESTS.c.request_id).exists()
        connection.execute(delete(REQUESTS).where(is_empty))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.unique_id == unique_id))
    return count


def forget_client(engine: Engine, client: str) -> int:
    """Delete all that a key asked for; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    _end_repeats(engine, REQUESTS.c.client == client)
    asked = select(REQUESTS.c.request_id).where(REQUESTS.c.client == client)
    count = _forget(engine, FORECASTS.c.request_id.in_(asked))
    with transaction(engine) as connection:
        connection.execute(delete(REQUESTS).where(REQUESTS.c.client == client))
    return count


def forget_owner(engine: Engine, owner: str) -> int:
    """Delete all forecasts and actuals of an owner; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        connection.execute(delete(REQUESTS).where(REQUESTS.c.owner == owner))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.owner == owner))
    return _forget(engine, FORECASTS.c.owner == owner)


def _end_repeats(engine: Engine, wanted: ColumnElement[bool]) -> None:
    """Forget idempotency keys: an answer that lacks a series must not be repeated."""
    with transaction(engine) as connection:
        connection.execute(update(REQUESTS).where(wanted).values(idempotency_key=None, body_digest=None))


def _forget(engine: Engine, wanted: ColumnElement[bool]) -> int:
    count, found = 0, [""]
    while found:
        with transaction(engine) as connection:
            lock_scores(connection)
            some = select(FORECASTS.c.forecast_id).where(wanted).limit(_AT_ONCE)
            found = list(connection.execute(some).scalars())
            of_these = SCORES.c.forecast_id.in_(found)
            scores = connection.execute(select(SCORES).where(of_these)).mappings().all()
            tally(connection, [dict(score) for score in scores], [])
            connection.execute(delete(SCORES).where(of_these))
            connection.execute(delete(FORECASTS).where(FORECASTS.c.forecast_id.in_(found)))
        count += len(found)
    return count
