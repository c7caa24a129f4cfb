"""Actuals: each is kept, the latest word on a time counting, and each forecast of that time is scored by it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select

from forecaster.database.engine import transaction, upsert_all
from forecaster.database.tables import ACTUALS, FORECASTS, SCORES
from forecaster.domain.instants import now_at
from forecaster.ledger.entries import (
    AT,
    HIGH_80,
    HIGH_95,
    LOW_80,
    LOW_95,
    STEP_BYTES,
    STEP_MEAN,
    WALL_CLOCK_TOLERANCE,
    matches,
    unpack,
)
from forecaster.ledger.reading import owners_of
from forecaster.ledger.tallies import lock_scores, tally

# in one transaction, which keeps others from writing and has each score in memory
_ACTUALS_AT_ONCE, _FORECASTS_AT_ONCE, _STEPS_AT_ONCE = 5000, 200, 1000
# larger ones count as this: databases square errors for a mean, and one series must not spoil the skill of all
LARGEST_ERROR = 1e150
# without the answers, which may be long
_SCORED = [column for column in FORECASTS.columns if column is not FORECASTS.c.answer]


@dataclass(frozen=True)
class Actual:
    """What came: a series, a time in microseconds since 1970 as `Served` has it, and the value."""

    unique_id: str
    at: int
    y: float


def take_actuals(engine: Engine, actuals: Sequence[Actual], owner: str = "", *, is_for_all: bool = False) -> int:
    """Keep actuals and score the forecasts of their times; return how many were new or other than known.

    What is sent again changes nothing, but scores what was forecast since. A corrected value replaces the one before,
    and its forecasts are scored anew. Each series is kept by itself, and scores are written bit by bit, so that others
    can write meanwhile: whoever is told of an error sends all of it again.

    Args:
        engine: the ledger's.
        actuals: in any order; of two of one time the last counts.
        owner: whose they are; the forecasts of others are not scored by them.
        is_for_all: whether they also count for every other owner with forecasts of the series.

    Raises:
        DatabaseUnavailable: the database does not answer; some of it may have been kept.
    """
    by_series: dict[str, dict[int, float]] = {}
    for one in actuals:
        by_series.setdefault(one.unique_id, {})[one.at] = one.y
    n_changed = 0
    for unique_id, came in by_series.items():
        owners = {owner, *owners_of(engine, unique_id)} if is_for_all else {owner}
        changed = [_take(engine, one, unique_id, came) for one in sorted(owners)]
        n_changed += len(set[int]().union(*changed))
    return n_changed


def _take(engine: Engine, owner: str, unique_id: str, came: dict[int, float]) -> set[int]:
    """Keep a series' actuals and score the owner's forecasts; return the times whose value is new."""
    times, changed = sorted(came), set[int]()
    for begin in range(0, len(times), _ACTUALS_AT_ONCE):
        some = {at: came[at] for at in times[begin : begin + _ACTUALS_AT_ONCE]}
        with _score_transaction(engine) as connection:
            changed |= _keep(connection, owner, unique_id, some)
    last: str | None = ""
    while last is not None:
        last = _score_some(engine, owner, unique_id, came, last)
    return changed


@contextmanager
def _score_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a short transaction that changes scores, and leave the others some time before the next."""
    begin = time.monotonic()
    with transaction(engine) as connection:
        lock_scores(connection)
        yield connection
    # who waits for SQLite's lock only looks for it now and then
    time.sleep(min(1, (time.monotonic() - begin) / 3))


def _keep(connection: Connection, owner: str, unique_id: str, came: dict[int, float]) -> set[int]:
    mine = (ACTUALS.c.owner == owner) & (ACTUALS.c.unique_id == unique_id)
    rows = connection.execute(select(ACTUALS).where(mine, ACTUALS.c["at"].between(min(came), max(came))))
    known = {row.at: row.y for row in rows}
    now = now_at()
    changed: list[dict[str, Any]] = [
        {"owner": owner, "unique_id": unique_id, "at": at, "y": y, "received_at": now}
        for at, y in came.items()
        if known.get(at) != y
    ]
    if changed:
        upsert_all(connection, ACTUALS, changed)
    return {row["at"] for row in changed}


def _score_some(engine: Engine, owner: str, unique_id: str, came: dict[int, float], after: str) -> str | None:
    """Score the next forecasts behind the id `after`; return the last one's id, None if there are no more."""
    first, last = min(came) - WALL_CLOCK_TOLERANCE, max(came) + WALL_CLOCK_TOLERANCE
    forecasts = (
        select(FORECASTS.c.forecast_id, func.length(FORECASTS.c.steps))
        .where(FORECASTS.c.unique_id == unique_id, FORECASTS.c.owner == owner, FORECASTS.c.forecast_id > after)
        .where(FORECASTS.c.last_at >= first, FORECASTS.c.first_at <= last)
        .order_by(FORECASTS.c.forecast_id)
        .limit(_FORECASTS_AT_ONCE)
    )
    with transaction(engine) as connection:
        rows = connection.execute(forecasts).all()
    ids: list[str] = []
    longest = total = 0
    for forecast_id, n_bytes in rows:
        if ids and total + n_bytes > _STEPS_AT_ONCE * STEP_BYTES:
            break
        ids.append(forecast_id)
        longest, total = max(longest, n_bytes), total + n_bytes
    for begin in range(0, longest // STEP_BYTES, _STEPS_AT_ONCE):
        with _score_transaction(engine) as connection:
            _score_steps(connection, ids, slice(begin, begin + _STEPS_AT_ONCE), came)
    return ids[-1] if ids else None


def _score_steps(connection: Connection, ids: list[str], part: slice, came: dict[int, float]) -> None:
    """Score a part of each forecast's steps."""
    rows = connection.execute(select(*_SCORED).where(FORECASTS.c.forecast_id.in_(ids))).all()
    steps = {row.forecast_id: unpack(row.steps)[part] for row in rows}
    times = np.concatenate([one[:, AT] for one in steps.values()]) if steps else np.empty(0)
    if not len(times):
        # they have been deleted meanwhile
        return
    owner, unique_id = rows[0].owner, rows[0].unique_id
    # all that is known, for one that was sent now may be further from a step than one that was known before
    stored = select(ACTUALS.c["at"], ACTUALS.c.y).where(
        ACTUALS.c.owner == owner,
        ACTUALS.c.unique_id == unique_id,
        ACTUALS.c["at"].between(int(times.min()) - WALL_CLOCK_TOLERANCE, int(times.max()) + WALL_CLOCK_TOLERANCE),
    )
    known = {row.at: row.y for row in connection.execute(stored.order_by(ACTUALS.c["at"]))}
    if known:
        scores = [score for row in rows for score in _scores(row, steps[row.forecast_id], part.start, known, came)]
        _replace(connection, scores, part)


def _replace(connection: Connection, scores: list[dict[str, Any]], part: slice) -> None:
    """Write scores that are new or other than before, and keep the sums of all scores true."""
    ids = {score["forecast_id"] for score in scores}
    mine = SCORES.c.forecast_id.in_(ids) & SCORES.c.step.between(part.start + 1, part.stop)
    before = {
        (row["forecast_id"], row["step"]): dict(row)
        for row in connection.execute(select(SCORES).where(mine)).mappings()
    }
    changed = [score for score in scores if before.get((score["forecast_id"], score["step"])) != score]
    keys = [(score["forecast_id"], score["step"]) for score in changed]
    if changed:
        tally(connection, [before[key] for key in keys if key in before], changed)
        upsert_all(connection, SCORES, changed)


def _scores(
    row: Any, steps: NDArray[np.float64], first: int, known: dict[int, float], came: dict[int, float]
) -> Iterator[dict[str, Any]]:
    """Yield the score of each of these steps, the first of which is number `first`, whose actual is in `came`."""
    known_at = np.array(list(known))
    found = matches(steps[:, AT].astype(np.int64), known_at, row.tolerance)
    for number in np.flatnonzero(found >= 0).tolist():
        at = int(known_at[found[number]])
        if at not in came:
            continue
        step, y = steps[number], known[at]
        yield {
            "forecast_id": row.forecast_id,
            "step": first + number + 1,
            "owner": row.owner,
            "at": int(step[AT]),
            "model": row.model,
            "version": row.version,
            "is_shadow": row.is_shadow,
            "forecast_by": row.forecast_by,
            "unique_id": row.unique_id,
            "error": _limited(float(step[STEP_MEAN] - y)),
            "naive_error": _limited(row.last_value - y),
            "is_inside_80": _is_inside(y, step[LOW_80], step[HIGH_80]),
            "is_inside_95": _is_inside(y, step[LOW_95], step[HIGH_95]),
        }


def _limited(error: float) -> float:
    return max(-LARGEST_ERROR, min(LARGEST_ERROR, error))


def _is_inside(y: float, low: float, high: float) -> int | None:
    return None if np.isnan(low) else int(low <= y <= high)
