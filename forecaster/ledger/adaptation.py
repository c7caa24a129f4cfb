"""Adaptive intervals of served forecasts: each series' current miscoverage rates, from the sums in the ledger."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from sqlalchemy import ColumnElement, Engine, select

from forecaster.database.engine import transaction
from forecaster.database.tables import STEPS
from forecaster.domain.levels import LEVELS, miscoverage_rate
from forecaster.domain.series import Floats
from forecaster.evaluation.adaptive import miscoverage_rates
from forecaster.ledger.running_sums import VersionKey

NOMINAL_MISCOVERAGE_RATES = np.array([miscoverage_rate(level) for level in LEVELS])


def read_miscoverage_rates(
    engine: Engine, model: str, version: int, owner: str = "", levels: Sequence[float] = LEVELS
) -> dict[str, Floats]:
    """Return the adapted miscoverage rates of a version by series, each `(steps, levels)`.

    A time that was forecast several times from the same step counts once. A series without scores at these levels is
    left out.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    of_version = (STEPS.c.owner == owner) & (STEPS.c.model == model) & (STEPS.c.version == version)
    return _read(engine, levels, of_version).get((owner, model, version), {})


def read_all_miscoverage_rates(engine: Engine, levels: Sequence[float] = LEVELS) -> dict[VersionKey, dict[str, Floats]]:
    """Return the adapted miscoverage rates of all versions, by owner, model and version; see `read_miscoverage_rates`.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    return _read(engine, levels)


def _read(
    engine: Engine, levels: Sequence[float], *conditions: ColumnElement[bool]
) -> dict[VersionKey, dict[str, Floats]]:
    # floats only: of mixed numbers, Postgres' driver takes the type of the first for all
    at_levels = STEPS.c.level.in_([float(level) for level in levels])
    query = select(STEPS).where(at_levels, *conditions).order_by(*STEPS.primary_key)
    with transaction(engine) as connection:
        rows = connection.execute(query).all()
    nominal = np.array([miscoverage_rate(level) for level in levels])
    column_of = {level: column for column, level in enumerate(levels)}
    rates: dict[VersionKey, dict[str, Floats]] = {}
    for (owner, model, version, unique_id), of_series in groupby(rows, lambda row: row[:4]):
        steps, at_level, n_times, inside = zip(*(row[4:] for row in of_series), strict=True)
        columns, counts = [column_of[level] for level in at_level], np.array(n_times)
        surplus = np.zeros((steps[-1], len(levels)))
        surplus[np.array(steps) - 1, columns] = counts * nominal[columns] - (counts - inside)
        rates.setdefault((owner, model, version), {})[unique_id] = miscoverage_rates(levels, surplus)
    return rates
