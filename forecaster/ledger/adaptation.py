"""Adaptive intervals of served forecasts: the share of misses that is allowed next, from the counts in the ledger."""

from itertools import groupby

import numpy as np
from sqlalchemy import ColumnElement, Engine, select

from forecaster.database.engine import transaction
from forecaster.database.tables import STEPS
from forecaster.domain.levels import LEVELS, miscoverage_rate
from forecaster.domain.series import Floats
from forecaster.evaluation.adaptive import allowed_shares
from forecaster.ledger.tallies import Of

SHARES = np.array([miscoverage_rate(level) for level in LEVELS])


def read_allowed(engine: Engine, model: str, version: int, owner: str = "") -> dict[str, Floats]:
    """Return by series which share of misses is allowed now, `(steps, levels)`, levels as `LEVELS`.

    A time that was forecast often from the same step counts once.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    mine = (STEPS.c.owner == owner) & (STEPS.c.model == model) & (STEPS.c.version == version)
    return _read(engine, mine).get((owner, model, version), {})


def read_all_allowed(engine: Engine) -> dict[Of, dict[str, Floats]]:
    """Return the same by owner, model and version.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    return _read(engine)


def _read(engine: Engine, *wanted: ColumnElement[bool]) -> dict[Of, dict[str, Floats]]:
    with transaction(engine) as connection:
        rows = connection.execute(select(STEPS).where(*wanted).order_by(*STEPS.primary_key)).all()
    allowed: dict[Of, dict[str, Floats]] = {}
    for (owner, model, version, unique_id), of_series in groupby(rows, lambda row: row[:4]):
        counted = np.array([(row.step, row.n_times, row.inside_80, row.inside_95) for row in of_series])
        steps, count, covered = counted[:, 0].astype(int) - 1, counted[:, 1:2], counted[:, 2:]
        surplus = np.zeros((steps[-1] + 1, len(LEVELS)))
        surplus[steps] = count * SHARES - (count - covered)
        allowed.setdefault((owner, model, version), {})[unique_id] = allowed_shares(LEVELS, surplus)
    return allowed
