"""Queries about served forecasts."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Engine, and_, func, select, true

from forecaster.database.engine import transaction
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS
from forecaster.domain.errors import RequestError
from forecaster.domain.levels import parse_levels
from forecaster.ledger.entries import AT, WALL_CLOCK_TOLERANCE, match_actuals, unpack_steps

# answers take many times their length in memory when they are parsed
MAX_ANSWER_CHARACTERS = 4 * 2**20


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as it was served.

    Args:
        head: the part that all forecasts share, JSON.
        forecasts: the part of each forecast, JSON.
        body_digest: the digest of the request's body; None if the request had no idempotency key.
    """

    head: str
    forecasts: list[str]
    body_digest: str | None


def find_answer(engine: Engine, owner: str, idempotency_key: str, body_digest: str | None) -> StoredAnswer | None:
    """Return an owner's answer under an idempotency key; None if there is none.

    If the stored request had another digest, the answer's forecasts are not read.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        same_key = and_(REQUESTS.c.owner == owner, REQUESTS.c.idempotency_key == idempotency_key)
        request = connection.execute(select(REQUESTS).where(same_key)).one_or_none()
        if request is None:
            return None
        if request.body_digest != body_digest:
            return StoredAnswer(request.head, [], request.body_digest)
        of_request = select(FORECASTS.c.answer).where(
            FORECASTS.c.request_id == request.request_id, FORECASTS.c.is_shadow.is_(False)
        )
        answers = connection.execute(of_request.order_by(FORECASTS.c.position)).scalars().all()
    return StoredAnswer(request.head, list(answers), request.body_digest)


def forecast_size(engine: Engine, forecast_id: str, owner: str | None = None) -> int:
    """Return the length of a forecast's answer in characters; 0 if there is no such forecast.

    Args:
        engine: the engine of the database that holds the ledger.
        forecast_id: the id in the answer.
        owner: the forecast must belong to this owner; to any when None.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        size = select(func.length(FORECASTS.c.answer)).where(FORECASTS.c.forecast_id == forecast_id, _is_of(owner))
        return connection.execute(size).scalar() or 0


def find_forecast(engine: Engine, forecast_id: str, owner: str | None = None) -> dict[str, Any] | None:
    """Return a forecast with its actuals; None if there is no such forecast.

    Args:
        engine: the engine of the database that holds the ledger.
        forecast_id: the id in the answer.
        owner: the forecast must belong to this owner; to any when None.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    found = _read(engine, and_(FORECASTS.c.forecast_id == forecast_id, _is_of(owner)), 1)
    return found[0] if found else None


def latest_forecasts(
    engine: Engine,
    model: str,
    unique_id: str | None,
    limit: int,
    owner: str | None = None,
    is_shadow: bool | None = None,
) -> list[dict[str, Any]]:
    """Return a model's last forecasts, newest first, with their actuals.

    Args:
        engine: the engine of the database that holds the ledger.
        model: the model's name.
        unique_id: the series; any when None.
        limit: the maximum number of forecasts.
        owner: the forecasts must belong to this owner; to any when None.
        is_shadow: True for shadow forecasts, False for served forecasts; both when None.

    Raises:
        RequestError: their answers are too long to be read at once.
        DatabaseUnavailable: the database does not answer.
    """
    wanted = and_(FORECASTS.c.model == model, _is_of(owner))
    if unique_id is not None:
        wanted &= FORECASTS.c.unique_id == unique_id
    if is_shadow is not None:
        wanted &= FORECASTS.c.is_shadow.is_(is_shadow)
    newest = select(func.length(FORECASTS.c.answer).label("size")).where(wanted)
    newest = newest.order_by(FORECASTS.c.answered_at.desc()).limit(limit)
    with transaction(engine) as connection:
        size = connection.execute(select(func.sum(newest.subquery().c.size))).scalar() or 0
    if size > MAX_ANSWER_CHARACTERS:
        raise RequestError(
            f"limit: the last {limit} forecasts have {size} characters, more than {MAX_ANSWER_CHARACTERS}; request "
            "fewer"
        )
    return _read(engine, wanted, limit)


def forecast_spans(engine: Engine) -> dict[str, tuple[int, int]]:
    """Return the first and the last forecast time of each series, microseconds since 1970.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    spans = select(FORECASTS.c.unique_id, func.min(FORECASTS.c.first_at), func.max(FORECASTS.c.last_at))
    with transaction(engine) as connection:
        return {name: (first, last) for name, first, last in connection.execute(spans.group_by(FORECASTS.c.unique_id))}


def owners_of(engine: Engine, unique_id: str) -> list[str]:
    """Return the owners who have forecasts of a series.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    owners = select(FORECASTS.c.owner).where(FORECASTS.c.unique_id == unique_id).distinct()
    with transaction(engine) as connection:
        return sorted(connection.execute(owners).scalars())


def _is_of(owner: str | None) -> ColumnElement[bool]:
    return true() if owner is None else FORECASTS.c.owner == owner


def _read(engine: Engine, wanted: Any, limit: int) -> list[dict[str, Any]]:
    with transaction(engine) as connection:
        joined = select(FORECASTS, REQUESTS.c.head).join(REQUESTS, REQUESTS.c.request_id == FORECASTS.c.request_id)
        newest = joined.where(wanted).order_by(FORECASTS.c.answered_at.desc()).limit(limit)
        rows = connection.execute(newest).all()
        if not rows:
            return []
        first, last = min(row.first_at for row in rows), max(row.last_at for row in rows)
        names, owners = {row.unique_id for row in rows}, {row.owner for row in rows}
        within = ACTUALS.c["at"].between(first - WALL_CLOCK_TOLERANCE, last + WALL_CLOCK_TOLERANCE)
        query = select(ACTUALS).where(ACTUALS.c.owner.in_(owners), ACTUALS.c.unique_id.in_(names), within)
        actuals: dict[tuple[str, str], dict[int, float]] = {}
        for actual in connection.execute(query.order_by(ACTUALS.c["at"])):
            actuals.setdefault((actual.owner, actual.unique_id), {})[actual.at] = actual.y
    return [_describe(row, actuals) for row in rows]


def _describe(row: Any, actuals: dict[tuple[str, str], dict[int, float]]) -> dict[str, Any]:
    return {
        **json.loads(row.head),
        "answered_at": row.answered_at,
        "is_shadow": row.is_shadow,
        "forecast": json.loads(row.answer),
        "actual": _actuals_by_step(row, actuals.get((row.owner, row.unique_id), {})),
    }


def _actuals_by_step(row: Any, actuals: dict[int, float]) -> list[float | None]:
    steps = unpack_steps(row.steps, parse_levels(row.levels))
    if not actuals:
        return [None] * len(steps)
    values = list(actuals.values())
    found = match_actuals(steps[:, AT].astype(np.int64), np.array(list(actuals)), row.tolerance)
    return [None if index < 0 else values[index] for index in found.tolist()]
