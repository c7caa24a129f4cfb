"""Look up what was served."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine, and_, func, select

from forecaster.database.engine import transaction
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS, SCORES
from forecaster.domain.errors import RequestError
from forecaster.ledger.entries import AT, WALL_CLOCK_TOLERANCE, matches, unpack

# of answers that are read at once, each of which takes many times its length in memory
_MOST_CHARACTERS = 4 * 2**20


@dataclass(frozen=True)
class Answered:
    """An answer as it was served: what its forecasts have in common, each of them, and the request's digest, JSON."""

    head: str
    forecasts: list[str]
    body_digest: str | None


def find_answer(engine: Engine, client: str, idempotency_key: str, body_digest: str | None) -> Answered | None:
    """Return what a client was answered under an idempotency key, None if nothing yet.

    Where the request under that key had another digest, its forecasts are not read.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        wanted = and_(REQUESTS.c.client == client, REQUESTS.c.idempotency_key == idempotency_key)
        request = connection.execute(select(REQUESTS).where(wanted)).one_or_none()
        if request is None:
            return None
        if request.body_digest != body_digest:
            return Answered(request.head, [], request.body_digest)
        of_request = select(FORECASTS.c.answer).where(
            FORECASTS.c.request_id == request.request_id, FORECASTS.c.is_shadow.is_(False)
        )
        answers = connection.execute(of_request.order_by(FORECASTS.c.position)).scalars().all()
    return Answered(request.head, list(answers), request.body_digest)


def forecast_size(engine: Engine, forecast_id: str) -> int:
    """Return how long a forecast's answer is, characters; 0 if there is none of that id.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        size = select(func.length(FORECASTS.c.answer)).where(FORECASTS.c.forecast_id == forecast_id)
        return connection.execute(size).scalar() or 0


def find_forecast(engine: Engine, forecast_id: str) -> dict[str, Any] | None:
    """Return a forecast with what came, None if there is none of that id.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    found = _read(engine, FORECASTS.c.forecast_id == forecast_id, 1)
    return found[0] if found else None


def latest_forecasts(engine: Engine, model: str, unique_id: str, limit: int) -> list[dict[str, Any]]:
    """Return a series' last forecasts, newest first, with what came.

    Raises:
        RequestError: their answers are too long to be read at once.
        DatabaseUnavailable: the database does not answer.
    """
    wanted = and_(FORECASTS.c.model == model, FORECASTS.c.unique_id == unique_id)
    newest = select(func.length(FORECASTS.c.answer).label("size")).where(wanted)
    newest = newest.order_by(FORECASTS.c.answered_at.desc()).limit(limit)
    with transaction(engine) as connection:
        size = connection.execute(select(func.sum(newest.subquery().c.size))).scalar() or 0
    if size > _MOST_CHARACTERS:
        raise RequestError(
            f"limit: the last {limit} forecasts have {size} characters, more than {_MOST_CHARACTERS}; ask for fewer"
        )
    return _read(engine, wanted, limit)


def models_scored(engine: Engine) -> list[str]:
    """Return the models that have scores.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        return list(connection.execute(select(SCORES.c.model).distinct().order_by(SCORES.c.model)).scalars())


def forecast_spans(engine: Engine) -> dict[str, tuple[int, int]]:
    """Return the first and the last time that was forecast of each series, microseconds since 1970.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    spans = select(FORECASTS.c.unique_id, func.min(FORECASTS.c.first_at), func.max(FORECASTS.c.last_at))
    with transaction(engine) as connection:
        return {name: (first, last) for name, first, last in connection.execute(spans.group_by(FORECASTS.c.unique_id))}


def _read(engine: Engine, wanted: Any, limit: int) -> list[dict[str, Any]]:
    with transaction(engine) as connection:
        chosen = select(FORECASTS, REQUESTS.c.head).join(REQUESTS, REQUESTS.c.request_id == FORECASTS.c.request_id)
        newest = chosen.where(wanted).order_by(FORECASTS.c.answered_at.desc()).limit(limit)
        rows = connection.execute(newest).all()
        if not rows:
            return []
        first, last = min(row.first_at for row in rows), max(row.last_at for row in rows)
        names = {row.unique_id for row in rows}
        within = ACTUALS.c["at"].between(first - WALL_CLOCK_TOLERANCE, last + WALL_CLOCK_TOLERANCE)
        came = select(ACTUALS).where(ACTUALS.c.unique_id.in_(names), within)
        actuals: dict[str, dict[int, float]] = {}
        for one in connection.execute(came.order_by(ACTUALS.c["at"])):
            actuals.setdefault(one.unique_id, {})[one.at] = one.y
    return [_describe(row, actuals) for row in rows]


def _describe(row: Any, actuals: dict[str, dict[int, float]]) -> dict[str, Any]:
    return {
        **json.loads(row.head),
        "answered_at": row.answered_at,
        "is_shadow": row.is_shadow,
        "forecast": json.loads(row.answer),
        "actual": _came(row, actuals.get(row.unique_id, {})),
    }


def _came(row: Any, known: dict[int, float]) -> list[float | None]:
    steps = unpack(row.steps)
    if not known:
        return [None] * len(steps)
    values = list(known.values())
    found = matches(steps[:, AT].astype(np.int64), np.array(list(known)), row.tolerance)
    return [None if number < 0 else values[number] for number in found.tolist()]
