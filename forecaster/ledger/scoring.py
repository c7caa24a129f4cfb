"""Record actuals, and score the forecasts of their times. A later actual for the same time replaces an earlier one."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select

from forecaster.database.engine import transaction, upsert_rows
from forecaster.database.tables import ACTUALS, FORECASTS, SCORES
from forecaster.domain.instants import now_microseconds
from forecaster.domain.levels import parse_levels
from forecaster.ledger.entries import (
    AT,
    FIRST_BOUND,
    STEP_MEAN,
    WALL_CLOCK_TOLERANCE,
    count_steps,
    match_actuals,
    unpack_steps,
)
from forecaster.ledger.outcomes import dump_outcomes
from forecaster.ledger.queries import owners_of
from forecaster.ledger.running_sums import lock_scores, update_sums

# limits of a transaction, which blocks other writers and holds its scores in memory
_ACTUALS_PER_TRANSACTION, _FORECASTS_PER_TRANSACTION, _STEPS_PER_TRANSACTION = 5000, 200, 1000
# errors are clipped to it, so that sums of errors stay finite and no single series makes the skill of all useless
LARGEST_ERROR = 1e150
# all columns but the answer, which may be long
_COLUMNS = [column for column in FORECASTS.columns if column is not FORECASTS.c.answer]


@dataclass(frozen=True)
class Actual:
    """An observed value.

    Args:
        unique_id: the series.
        at: its time, microseconds since 1970, in the same clock as `ServedForecast.steps`.
        y: the value.
    """

    unique_id: str
    at: int
    y: float


def record_actuals(engine: Engine, actuals: Sequence[Actual], owner: str = "", *, is_for_all: bool = False) -> int:
    """Store actuals and score the forecasts of their times; return how many actuals were new or changed.

    An actual that is sent again changes nothing, but scores the forecasts made since. A corrected actual replaces the
    earlier value, and its forecasts are scored again. The work is split into many short transactions, so that others
    can write in between. After an error, send all actuals again.

    Args:
        engine: the engine of the database that holds the ledger.
        actuals: in any order; of several for the same time, the last counts.
        owner: only this owner's forecasts are scored.
        is_for_all: whether to store them for every other owner with forecasts of the series, too.

    Raises:
        DatabaseUnavailable: the database does not answer; some actuals may have been stored.
    """
    by_series: dict[str, dict[int, float]] = {}
    for actual in actuals:
        by_series.setdefault(actual.unique_id, {})[actual.at] = actual.y
    n_changed = 0
    for unique_id, values in by_series.items():
        owners = {owner, *owners_of(engine, unique_id)} if is_for_all else {owner}
        changed = [_record(engine, each_owner, unique_id, values) for each_owner in sorted(owners)]
        n_changed += len(set[int]().union(*changed))
    return n_changed


def _record(engine: Engine, owner: str, unique_id: str, values: dict[int, float]) -> set[int]:
    """Store a series' actuals by time, and score the owner's forecasts; return the times whose value is new."""
    times, changed = sorted(values), set[int]()
    for begin in range(0, len(times), _ACTUALS_PER_TRANSACTION):
        batch = {at: values[at] for at in times[begin : begin + _ACTUALS_PER_TRANSACTION]}
        with _scoring_transaction(engine) as connection:
            changed |= _store(connection, owner, unique_id, batch)
    last_id: str | None = ""
    while last_id is not None:
        last_id = _score_batch(engine, owner, unique_id, values, last_id)
    return changed


@contextmanager
def _scoring_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that changes scores; after it, pause so that other writers get the lock."""
    begin = time.monotonic()
    with transaction(engine) as connection:
        lock_scores(connection)
        yield connection
    # a writer that waits for SQLite's lock only polls for it
    time.sleep(min(1, (time.monotonic() - begin) / 3))


def _store(connection: Connection, owner: str, unique_id: str, values: dict[int, float]) -> set[int]:
    of_series = (ACTUALS.c.owner == owner) & (ACTUALS.c.unique_id == unique_id)
    rows = connection.execute(select(ACTUALS).where(of_series, ACTUALS.c["at"].between(min(values), max(values))))
    known = {row.at: row.y for row in rows}
    now = now_microseconds()
    changed: list[dict[str, Any]] = [
        {"owner": owner, "unique_id": unique_id, "at": at, "y": y, "received_at": now}
        for at, y in values.items()
        if known.get(at) != y
    ]
    if changed:
        upsert_rows(connection, ACTUALS, changed)
    return {row["at"] for row in changed}


def _score_batch(engine: Engine, owner: str, unique_id: str, values: dict[int, float], after: str) -> str | None:
    """Score the next forecasts after the id `after`; return the last id, or None if there are no more forecasts."""
    first, last = min(values) - WALL_CLOCK_TOLERANCE, max(values) + WALL_CLOCK_TOLERANCE
    forecasts = (
        select(FORECASTS.c.forecast_id, FORECASTS.c.levels, func.length(FORECASTS.c.steps))
        .where(FORECASTS.c.unique_id == unique_id, FORECASTS.c.owner == owner, FORECASTS.c.forecast_id > after)
        .where(FORECASTS.c.last_at >= first, FORECASTS.c.first_at <= last)
        .order_by(FORECASTS.c.forecast_id)
        .limit(_FORECASTS_PER_TRANSACTION)
    )
    with transaction(engine) as connection:
        rows = connection.execute(forecasts).all()
    ids: list[str] = []
    longest = total = 0
    for forecast_id, levels, n_bytes in rows:
        n_steps = count_steps(n_bytes, parse_levels(levels))
        if ids and total + n_steps > _STEPS_PER_TRANSACTION:
            break
        ids.append(forecast_id)
        longest, total = max(longest, n_steps), total + n_steps
    for begin in range(0, longest, _STEPS_PER_TRANSACTION):
        with _scoring_transaction(engine) as connection:
            _score_steps(connection, ids, slice(begin, begin + _STEPS_PER_TRANSACTION), values)
    return ids[-1] if ids else None


def _score_steps(connection: Connection, ids: list[str], part: slice, values: dict[int, float]) -> None:
    """Score a part of the steps of each forecast."""
    rows = connection.execute(select(*_COLUMNS).where(FORECASTS.c.forecast_id.in_(ids))).all()
    steps = {row.forecast_id: unpack_steps(row.steps, parse_levels(row.levels))[part] for row in rows}
    times = np.concatenate([array[:, AT] for array in steps.values()]) if steps else np.empty(0)
    if not len(times):
        # the forecasts have been deleted since their ids were read
        return
    owner, unique_id = rows[0].owner, rows[0].unique_id
    # all stored actuals, because an earlier one may be nearer to a step than the new one
    stored = select(ACTUALS.c["at"], ACTUALS.c.y).where(
        ACTUALS.c.owner == owner,
        ACTUALS.c.unique_id == unique_id,
        ACTUALS.c["at"].between(int(times.min()) - WALL_CLOCK_TOLERANCE, int(times.max()) + WALL_CLOCK_TOLERANCE),
    )
    known = {row.at: row.y for row in connection.execute(stored.order_by(ACTUALS.c["at"]))}
    if known:
        scores = [score for row in rows for score in _scores(row, steps[row.forecast_id], part.start, known, values)]
        _replace_scores(connection, scores, part)


def _replace_scores(connection: Connection, scores: list[dict[str, Any]], part: slice) -> None:
    """Write new and changed scores, and update the running sums."""
    ids = {score["forecast_id"] for score in scores}
    in_part = SCORES.c.forecast_id.in_(ids) & SCORES.c.step.between(part.start + 1, part.stop)
    before = {
        (row["forecast_id"], row["step"]): dict(row)
        for row in connection.execute(select(SCORES).where(in_part)).mappings()
    }
    changed = [score for score in scores if before.get((score["forecast_id"], score["step"])) != score]
    keys = [(score["forecast_id"], score["step"]) for score in changed]
    if changed:
        update_sums(connection, [before[key] for key in keys if key in before], changed)
        upsert_rows(connection, SCORES, changed)


def _scores(
    row: Any, steps: NDArray[np.float64], first: int, known: dict[int, float], values: dict[int, float]
) -> Iterator[dict[str, Any]]:
    """Yield the scores of the steps whose nearest actual is in `values`; `first` is the index of the first step."""
    known_at, levels = np.array(list(known)), parse_levels(row.levels)
    found = match_actuals(steps[:, AT].astype(np.int64), known_at, row.tolerance)
    for index in np.flatnonzero(found >= 0).tolist():
        at = int(known_at[found[index]])
        if at not in values:
            continue
        step, y = steps[index], known[at]
        yield {
            "forecast_id": row.forecast_id,
            "step": first + index + 1,
            "owner": row.owner,
            "at": int(step[AT]),
            "model": row.model,
            "version": row.version,
            "is_shadow": row.is_shadow,
            "forecast_by": row.forecast_by,
            "unique_id": row.unique_id,
            "error": _clip(float(step[STEP_MEAN] - y)),
            "naive_error": _clip(row.last_value - y),
            "is_inside": dump_outcomes(levels, y, step[FIRST_BOUND:].tolist()),
        }


def _clip(error: float) -> float:
    return max(-LARGEST_ERROR, min(LARGEST_ERROR, error))
