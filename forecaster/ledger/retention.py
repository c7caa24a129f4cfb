"""Forget: what is old, or all of a series or of a client."""

from typing import Any

from sqlalchemy import Connection, Engine, delete, select, update

from forecaster.database.engine import transaction
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS, SCORES

_has_forecast = select(FORECASTS.c.forecast_id).where(FORECASTS.c.forecast_id == SCORES.c.forecast_id).exists()


def forget_before(engine: Engine, at: int) -> int:
    """Delete what was answered before `at`, microseconds since 1970, and what came for then; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer, and nothing was deleted.
    """
    with transaction(engine) as connection:
        count = _forget(connection, FORECASTS.c.answered_at < at)
        connection.execute(delete(REQUESTS).where(REQUESTS.c.answered_at < at))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.received_at < at, ACTUALS.c["at"] < at))
        # of forecasts that were forgotten while they were scored
        connection.execute(delete(SCORES).where(~_has_forecast))
    return count


def forget_series(engine: Engine, unique_id: str) -> int:
    """Delete all forecasts and actuals of a series; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer, and nothing was deleted.
    """
    with transaction(engine) as connection:
        # an answer that lacks a series must not be repeated
        asked = select(FORECASTS.c.request_id).where(FORECASTS.c.unique_id == unique_id)
        repeatable = update(REQUESTS).where(REQUESTS.c.request_id.in_(asked))
        connection.execute(repeatable.values(idempotency_key=None, body_digest=None))
        count = _forget(connection, FORECASTS.c.unique_id == unique_id)
        is_empty = ~select(FORECASTS.c.request_id).where(FORECASTS.c.request_id == REQUESTS.c.request_id).exists()
        connection.execute(delete(REQUESTS).where(is_empty))
        connection.execute(delete(ACTUALS).where(ACTUALS.c.unique_id == unique_id))
    return count


def forget_client(engine: Engine, client: str) -> int:
    """Delete all that a key asked for; return how many forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer, and nothing was deleted.
    """
    with transaction(engine) as connection:
        asked = select(REQUESTS.c.request_id).where(REQUESTS.c.client == client)
        count = _forget(connection, FORECASTS.c.request_id.in_(asked))
        connection.execute(delete(REQUESTS).where(REQUESTS.c.client == client))
    return count


def _forget(connection: Connection, wanted: Any) -> int:
    chosen = select(FORECASTS.c.forecast_id).where(wanted)
    connection.execute(delete(SCORES).where(SCORES.c.forecast_id.in_(chosen)))
    return int(connection.execute(delete(FORECASTS).where(wanted)).rowcount)
