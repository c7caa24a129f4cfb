"""Delete old forecasts, or all forecasts of a series, a client or an owner.

Forecasts are deleted in batches, each with its scores and their part of the running sums, so that others can write in
between. If the database fails halfway, the same call deletes the rest. An answer that lost some of its forecasts is no
longer repeated under its idempotency key.
"""

from sqlalchemy import ColumnElement, Engine, delete, select, update

from forecaster.database.engine import transaction
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS, SCORES
from forecaster.ledger.running_sums import lock_scores, update_sums

_BATCH_SIZE = 200


def forget_before(engine: Engine, at: int) -> int:
    """Delete requests, forecasts and actuals from before a moment; return the number of deleted forecasts.

    Args:
        engine: the engine of the database that holds the ledger.
        at: microseconds since 1970. Actuals are deleted if both their time and their arrival lie before it.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        connection.execute(delete(REQUESTS).where(REQUESTS.c.answered_at < at))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.received_at < at, ACTUALS.c["at"] < at))
    return _forget(engine, FORECASTS.c.answered_at < at)


def forget_series(engine: Engine, unique_id: str) -> int:
    """Delete all forecasts and actuals of a series, of all owners; return the number of deleted forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    requests = select(FORECASTS.c.request_id).where(FORECASTS.c.unique_id == unique_id)
    _delete_idempotency_keys(engine, REQUESTS.c.request_id.in_(requests))
    count = _forget(engine, FORECASTS.c.unique_id == unique_id)
    with transaction(engine) as connection:
        is_empty = ~select(FORECASTS.c.request_id).where(FORECASTS.c.request_id == REQUESTS.c.request_id).exists()
        connection.execute(delete(REQUESTS).where(is_empty))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.unique_id == unique_id))
    return count


def forget_client(engine: Engine, client: str) -> int:
    """Delete all requests and forecasts of an API key; return the number of deleted forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    _delete_idempotency_keys(engine, REQUESTS.c.client == client)
    requests = select(REQUESTS.c.request_id).where(REQUESTS.c.client == client)
    count = _forget(engine, FORECASTS.c.request_id.in_(requests))
    with transaction(engine) as connection:
        connection.execute(delete(REQUESTS).where(REQUESTS.c.client == client))
    return count


def forget_owner(engine: Engine, owner: str) -> int:
    """Delete all requests, forecasts and actuals of an owner; return the number of deleted forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        connection.execute(delete(REQUESTS).where(REQUESTS.c.owner == owner))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.owner == owner))
    return _forget(engine, FORECASTS.c.owner == owner)


def _delete_idempotency_keys(engine: Engine, wanted: ColumnElement[bool]) -> None:
    """Delete the idempotency keys of requests, because an answer that lacks a series must not be repeated."""
    with transaction(engine) as connection:
        connection.execute(update(REQUESTS).where(wanted).values(idempotency_key=None, body_digest=None))


def _forget(engine: Engine, wanted: ColumnElement[bool]) -> int:
    count, ids = 0, [""]
    while ids:
        with transaction(engine) as connection:
            lock_scores(connection)
            batch = select(FORECASTS.c.forecast_id).where(wanted).limit(_BATCH_SIZE)
            ids = list(connection.execute(batch).scalars())
            in_batch = SCORES.c.forecast_id.in_(ids)
            scores = connection.execute(select(SCORES).where(in_batch)).mappings().all()
            update_sums(connection, [dict(score) for score in scores], [])
            connection.execute(delete(SCORES).where(in_batch))
            connection.execute(delete(FORECASTS).where(FORECASTS.c.forecast_id.in_(ids)))
        count += len(ids)
    return count
