"""Actuals: each is kept, the latest word on a time counting, and each forecast of that time is scored by it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, select

from forecaster.database.engine import insert_or, transaction
from forecaster.database.tables import ACTUALS, FORECASTS, SCORES
from forecaster.ledger.entries import (
    AT,
    HIGH_80,
    HIGH_95,
    LOW_80,
    LOW_95,
    STEP_MEAN,
    WALL_CLOCK_TOLERANCE,
    matches,
    now_at,
    unpack,
)

# rows in one statement: databases have a limit on its parameters
_CHUNK = 500


@dataclass(frozen=True)
class Actual:
    """What came: a series, a time in microseconds since 1970 as `Served` has it, and the value."""

    unique_id: str
    at: int
    y: float


def take_actuals(engine: Engine, actuals: Sequence[Actual]) -> int:
    """Keep actuals and score the forecasts of their times; return how many were new or other than known.

    What is sent again changes nothing, but scores what was forecast since. A corrected value replaces the one before,
    and its forecasts are scored anew.

    Raises:
        DatabaseUnavailable: the database does not answer, and nothing was kept.
    """
    by_series: dict[str, dict[int, float]] = {}
    for one in actuals:
        by_series.setdefault(one.unique_id, {})[one.at] = one.y
    n_changed = 0
    with transaction(engine) as connection:
        # in one order, so that two who do this at once cannot wait for each other
        for unique_id, came in sorted(by_series.items()):
            n_changed += _keep(connection, unique_id, came)
            _upsert(connection, SCORES, list(_scores(connection, unique_id, came)))
    return n_changed


def _keep(connection: Connection, unique_id: str, came: dict[int, float]) -> int:
    """Store a series' actuals and return how many were new or other than known."""
    within = ACTUALS.c["at"].between(min(came), max(came))
    rows = connection.execute(select(ACTUALS).where(ACTUALS.c.unique_id == unique_id, within))
    known = {row.at: row.y for row in rows}
    now = now_at()
    changed = [
        {"unique_id": unique_id, "at": at, "y": y, "received_at": now}
        for at, y in sorted(came.items())
        if known.get(at) != y
    ]
    _upsert(connection, ACTUALS, changed)
    return len(changed)


def _scores(connection: Connection, unique_id: str, came: dict[int, float]) -> Iterator[dict[str, Any]]:
    """Yield the score of each step that was forecast for the times of `came`."""
    came_at = np.array(sorted(came))
    forecasts = select(FORECASTS).where(
        FORECASTS.c.unique_id == unique_id,
        FORECASTS.c.last_at >= int(came_at[0]) - WALL_CLOCK_TOLERANCE,
        FORECASTS.c.first_at <= int(came_at[-1]) + WALL_CLOCK_TOLERANCE,
    )
    for row in connection.execute(forecasts):
        steps = unpack(row.steps)
        found = matches(steps[:, AT].astype(np.int64), came_at, row.tolerance)
        for number in np.flatnonzero(found >= 0).tolist():
            step = steps[number]
            y = came[int(came_at[found[number]])]
            yield {
                "forecast_id": row.forecast_id,
                "step": number + 1,
                "at": int(step[AT]),
                "model": row.model,
                "version": row.version,
                "is_shadow": row.is_shadow,
                "forecast_by": row.forecast_by,
                "unique_id": unique_id,
                "error": float(step[STEP_MEAN] - y),
                "naive_error": row.last_value - y,
                "is_inside_80": _is_inside(y, step[LOW_80], step[HIGH_80]),
                "is_inside_95": _is_inside(y, step[LOW_95], step[HIGH_95]),
            }


def _is_inside(y: float, low: float, high: float) -> int | None:
    return None if np.isnan(low) else int(low <= y <= high)


def _upsert(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert rows, or replace those that have their primary keys."""
    keys = [column.name for column in table.primary_key]
    for begin in range(0, len(rows), _CHUNK):
        statement = insert_or(connection, table).values(rows[begin : begin + _CHUNK])
        others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others))
