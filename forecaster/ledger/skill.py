"""Realised skill: the errors and coverage of served forecasts, by version, series, horizon step or day."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, func, literal, select

from forecaster.database.engine import transaction
from forecaster.database.tables import SCORES
from forecaster.domain import sums
from forecaster.domain.errors import RequestError
from forecaster.domain.instants import DAY
from forecaster.domain.levels import level_name
from forecaster.ledger.outcomes import load_outcomes
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
    conditions = [SCORES.c.model == model, SCORES.c.is_shadow.is_(is_shadow), SCORES.c.forecast_by == forecast_by]
    if owner is not None:
        conditions.append(SCORES.c.owner == owner)
    if version is not None:
        conditions.append(SCORES.c.version == version)
    if unique_id is not None:
        conditions.append(SCORES.c.unique_id == unique_id)
    if since is not None:
        conditions.append(SCORES.c["at"] >= since)
    with transaction(engine) as connection:
        rows = connection.execute(_query(by, conditions)).all()
    groups = groupby(rows, lambda row: row.grouped)
    return [_describe(list(of_group), group if by else None) for group, of_group in groups]


def _query(by: str | None, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Return a query for one row for each group and outcome: the errors of the group, and the count of the outcome."""
    group = (literal(0) if by is None else GROUPS[by]).label("grouped")
    groups = [] if by is None else ["grouped"]
    errors = select(
        group,
        func.count().label("n"),
        func.avg(func.abs(SCORES.c.error)).label("mae"),
        func.avg(func.abs(SCORES.c.naive_error)).label("naive_mae"),
        func.avg(SCORES.c.error).label("bias"),
    )
    last = errors.where(*conditions).group_by(*groups).order_by(group.desc()).limit(_MAX_GROUPS).subquery("last")
    counts = select(group, SCORES.c.is_inside, func.count().label("n_scores")).where(*conditions)
    outcomes = counts.group_by(*groups, SCORES.c.is_inside).subquery("outcomes")
    # in one statement, so that the errors and the outcomes are of the same scores
    query = select(last, outcomes.c.is_inside, outcomes.c.n_scores)
    return query.join(outcomes, outcomes.c.grouped == last.c.grouped).order_by(last.c.grouped)


def skill_from_sums(totals: ScoreSums) -> GroupSkill:
    """Return the realised skill of running sums with at least one score."""
    mae, naive_mae = (sums.mean(parts, totals.n_scores) for parts in (totals.absolute, totals.naive))
    return GroupSkill(
        group=None,
        n_scores=totals.n_scores,
        mae=mae,
        relative_mae=mae / naive_mae if naive_mae else None,
        bias=sums.mean(totals.signed, totals.n_scores),
        **_coverage(totals.n_covered, totals.inside),
    )


def _describe(rows: Sequence[Any], group: int | str | None) -> GroupSkill:
    """Return the skill of a group from its rows, one for each outcome."""
    n_covered, inside, row = Counter[float](), Counter[float](), rows[0]
    for each in rows:
        for level, is_inside in load_outcomes(each.is_inside):
            if is_inside is not None:
                n_covered[level] += each.n_scores
                inside[level] += is_inside * each.n_scores
    return GroupSkill(
        group=group,
        n_scores=row.n,
        mae=row.mae,
        relative_mae=row.mae / row.naive_mae if row.naive_mae else None,
        bias=row.bias,
        **_coverage(n_covered, inside),
    )


def _coverage(n_covered: Mapping[float, int], inside: Mapping[float, int]) -> dict[str, Any]:
    """Return the fields `coverage` and `n_covered` of a group."""
    levels = {level_name(level): level for level in sorted(n_covered) if n_covered[level]}
    return {
        "coverage": {name: inside[level] / n_covered[level] for name, level in levels.items()},
        "n_covered": {name: n_covered[level] for name, level in levels.items()},
    }
