"""Realised skill: what the scores of served forecasts say, per version, series, horizon step or day."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from forecaster.database.engine import transaction
from forecaster.database.tables import SCORES
from forecaster.domain import sums
from forecaster.domain.errors import RequestError
from forecaster.domain.instants import DAY
from forecaster.ledger.tallies import Tally

# of more, the last ones
_MOST_GROUPS = 1000
# what scores can be grouped by; a new one is an entry here
GROUPS: dict[str, Any] = {
    "version": SCORES.c.version,
    "unique_id": SCORES.c.unique_id,
    "step": SCORES.c.step,
    # days since 1970
    # rounded down before 1970 too, which databases do not do by themselves
    "day": (SCORES.c["at"] - (SCORES.c["at"] % DAY + DAY) % DAY) // DAY,
}


@dataclass(frozen=True)
class Realised:
    """What came of a group of forecasts' steps.

    Args:
        group: the version, series, step or day since 1970; None for all together.
        n_scores: how many steps are scored.
        mae: of the forecasts.
        relative_mae: over the last value's; None where that has no error.
        bias: mean error, forecast less actual.
        coverage: by level, the share inside; without those that no step had an interval for.
        n_covered: by level, how many steps that is of.
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
) -> list[Realised]:
    """Return what came of a model's forecasts, one entry for each group, the last ones where there are too many.

    Args:
        engine: the ledger's.
        model: the model.
        by: a name in `GROUPS`; all together when None.
        version: of this version alone.
        unique_id: of this series alone.
        since: of times from here on, microseconds since 1970.
        is_shadow: of forecasts that nobody saw.
        forecast_by: by whom.
        owner: of this owner's forecasts alone; of all owners' when None.

    Raises:
        RequestError: there is no such grouping.
        DatabaseUnavailable: the database does not answer.
    """
    if by is not None and by not in GROUPS:
        raise RequestError(f"by: '{by}' is none of {sorted(GROUPS)}")
    columns = [
        func.count().label("n"),
        func.avg(func.abs(SCORES.c.error)).label("mae"),
        func.avg(func.abs(SCORES.c.naive_error)).label("naive_mae"),
        func.avg(SCORES.c.error).label("bias"),
        # of smallints, Postgres' mean is a decimal
        func.avg(SCORES.c.is_inside_80 * 1.0).label("inside_80"),
        func.avg(SCORES.c.is_inside_95 * 1.0).label("inside_95"),
        func.count(SCORES.c.is_inside_80).label("n_80"),
        func.count(SCORES.c.is_inside_95).label("n_95"),
    ]
    chosen = [SCORES.c.model == model, SCORES.c.is_shadow.is_(is_shadow), SCORES.c.forecast_by == forecast_by]
    if owner is not None:
        chosen.append(SCORES.c.owner == owner)
    if version is not None:
        chosen.append(SCORES.c.version == version)
    if unique_id is not None:
        chosen.append(SCORES.c.unique_id == unique_id)
    if since is not None:
        chosen.append(SCORES.c["at"] >= since)
    if by is None:
        query = select(*columns).where(*chosen)
    else:
        group = GROUPS[by].label("grouped")
        query = select(*columns, group).where(*chosen).group_by("grouped").order_by(group.desc()).limit(_MOST_GROUPS)
    with transaction(engine) as connection:
        rows = connection.execute(query).all()
    return [_describe(row, by is not None) for row in reversed(rows) if row.n]


def realised(tally: Tally) -> Realised:
    """Return what running sums, of one score at least, say."""
    mae, naive_mae = (sums.mean(parts, tally.n_scores) for parts in (tally.absolute, tally.naive))
    counted = {"80": (tally.n_80, tally.inside_80), "95": (tally.n_95, tally.inside_95)}
    return Realised(
        group=None,
        n_scores=tally.n_scores,
        mae=mae,
        relative_mae=mae / naive_mae if naive_mae else None,
        bias=sums.mean(tally.signed, tally.n_scores),
        coverage={level: inside / count for level, (count, inside) in counted.items() if count},
        n_covered={level: count for level, (count, _) in counted.items() if count},
    )


def _describe(row: Any, has_group: bool) -> Realised:
    inside = {"80": row.inside_80, "95": row.inside_95}
    return Realised(
        group=row.grouped if has_group else None,
        n_scores=row.n,
        mae=row.mae,
        relative_mae=row.mae / row.naive_mae if row.naive_mae else None,
        bias=row.bias,
        coverage={level: float(share) for level, share in inside.items() if share is not None},
        n_covered={level: count for level, count in {"80": row.n_80, "95": row.n_95}.items() if count},
    )
