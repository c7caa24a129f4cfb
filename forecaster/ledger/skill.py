"""Realised skill: the errors and coverage of served forecasts, by version, series, horizon step or day."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from forecaster.database.engine import transaction
from forecaster.database.tables import SCORES
from forecaster.domain import sums
from forecaster.domain.errors import RequestError
from forecaster.domain.instants import DAY
from forecaster.ledger.running_sums import ScoreSums

# if there are more, only the last are returned
_MAX_GROUPS = 1000
# what scores can be grouped by
GROUPS: dict[str, Any] = {
    "version": SCORES.c.version,
    "unique_id": SCORES.c.unique_id,
    "step": SCORES.c.step,
    # days since 1970, rounded down also before 1970, where databases round towards zero
    "day": (SCORES.c["at"] - (SCORES.c["at"] % DAY + DAY) % DAY) // DAY,
}


@dataclass(frozen=True)
class GroupSkill:
    """The realised skill of a group of scored steps.

    Args:
        group: the version, series, step or day since 1970; None if scores are not grouped.
        n_scores: how many steps are scored.
        mae: mean absolute error of the forecasts.
        relative_mae: `mae` divided by the mean absolute error of the last value; None if the latter is 0.
        bias: mean error, forecast minus actual.
        coverage: by level, the share of actuals inside the interval; levels without any interval are left out.
        n_covered: by level, how many steps have an interval.
    """

    group: int | str | None
    n_scores: int
    mae: float
    relative_mae: float | None
    bias: float
    coverage: dict[str, float]
    n_covered: dict[str, int]


def realised_skill(
    engine: Engine,
    model: str,
    by: str | None = None,
    *,
    version: int | None = None,
    unique_id: str | None = None,
    since: int | None = None,
    is_shadow: bool = False,
    forecast_by: str = "model",
    owner: str | None = None,
) -> list[GroupSkill]:
    """Return the realised skill of a model, one entry for each group in ascending order, at most the last 1000.

    Args:
        engine: the engine of the database that holds the ledger.
        model: the name of the model.
        by: a name in `GROUPS`; one entry for all scores when None.
        version: only this version.
        unique_id: only this series.
        since: only forecast times from this moment on, microseconds since 1970.
        is_shadow: whether to evaluate shadow forecasts instead of served ones.
        forecast_by: `model`, or the baseline that was served instead.
        owner: only this owner's forecasts; those of all owners when None.

    Raises:
        RequestError: `by` is unknown.
        DatabaseUnavailable: the database does not answer.
    """
    if by is not None and by not in GROUPS:
        raise RequestError(f"by: '{by}' is unknown; choose from {sorted(GROUPS)}")
    columns = [
        func.count().label("n"),
        func.avg(func.abs(SCORES.c.error)).label("mae"),
        func.avg(func.abs(SCORES.c.naive_error)).label("naive_mae"),
        func.avg(SCORES.c.error).label("bias"),
        # Postgres returns the mean of small integers as a decimal
        func.avg(SCORES.c.is_inside_80 * 1.0).label("inside_80"),
        func.avg(SCORES.c.is_inside_95 * 1.0).label("inside_95"),
        func.count(SCORES.c.is_inside_80).label("n_80"),
        func.count(SCORES.c.is_inside_95).label("n_95"),
    ]
    conditions = [SCORES.c.model == model, SCORES.c.is_shadow.is_(is_shadow), SCORES.c.forecast_by == forecast_by]
    if owner is not None:
        conditions.append(SCORES.c.owner == owner)
    if version is not None:
        conditions.append(SCORES.c.version == version)
    if unique_id is not None:
        conditions.append(SCORES.c.unique_id == unique_id)
    if since is not None:
        conditions.append(SCORES.c["at"] >= since)
    if by is None:
        query = select(*columns).where(*conditions)
    else:
        group = GROUPS[by].label("grouped")
        query = select(*columns, group).where(*conditions).group_by("grouped").order_by(group.desc()).limit(_MAX_GROUPS)
    with transaction(engine) as connection:
        rows = connection.execute(query).all()
    return [_describe(row, by is not None) for row in reversed(rows) if row.n]


def skill_from_sums(totals: ScoreSums) -> GroupSkill:
    """Return the realised skill of running sums with at least one score."""
    mae, naive_mae = (sums.mean(parts, totals.n_scores) for parts in (totals.absolute, totals.naive))
    counts = {"80": (totals.n_80, totals.inside_80), "95": (totals.n_95, totals.inside_95)}
    return GroupSkill(
        group=None,
        n_scores=totals.n_scores,
        mae=mae,
        relative_mae=mae / naive_mae if naive_mae else None,
        bias=sums.mean(totals.signed, totals.n_scores),
        coverage={level: inside / count for level, (count, inside) in counts.items() if count},
        n_covered={level: count for level, (count, _) in counts.items() if count},
    )


def _describe(row: Any, has_group: bool) -> GroupSkill:
    inside = {"80": row.inside_80, "95": row.inside_95}
    return GroupSkill(
        group=row.grouped if has_group else None,
        n_scores=row.n,
        mae=row.mae,
        relative_mae=row.mae / row.naive_mae if row.naive_mae else None,
        bias=row.bias,
        coverage={level: float(share) for level, share in inside.items() if share is not None},
        n_covered={level: count for level, count in {"80": row.n_80, "95": row.n_95}.items() if count},
    )
