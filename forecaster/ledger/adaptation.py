"""Adaptive intervals of served forecasts: each series' current miscoverage rates, from the sums in the ledger."""

from itertools import groupby

import numpy as np
from sqlalchemy import ColumnElement, Engine, select

from forecaster.database.engine import transaction
from forecaster.database.tables import STEPS
from forecaster.domain.series import Floats
from forecaster.evaluation.adaptive import miscoverage_rates
from forecaster.ledger.entries import LEVELS
from forecaster.ledger.running_sums import VersionKey

NOMINAL_MISCOVERAGE_RATES = np.array([1 - level / 100 for level in LEVELS])


def read_miscoverage_rates(engine: Engine, model: str, version: int, owner: str = "") -> dict[str, Floats]:
    """Return the adapted miscoverage rates of a version by series, each `(steps, levels)`, levels as in `LEVELS`.

    A time that was forecast several times from the same step counts once.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    of_version = (STEPS.c.owner == owner) & (STEPS.c.model == model) & (STEPS.c.version == version)
    return _read(engine, of_version).get((owner, model, version), {})


def read_all_miscoverage_rates(engine: Engine) -> dict[VersionKey, dict[str, Floats]]:
    """Return the adapted miscoverage rates of all versions, by owner, model and version.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    return _read(engine)


def _read(engine: Engine, *conditions: ColumnElement[bool]) -> dict[VersionKey, dict[str, Floats]]:
    with transaction(engine) as connection:
        rows = connection.execute(select(STEPS).where(*conditions).order_by(*STEPS.primary_key)).all()
    rates: dict[VersionKey, dict[str, Floats]] = {}
    for (owner, model, version, unique_id), of_series in groupby(rows, lambda row: row[:4]):
        counts = np.array([(row.step, row.n_times, row.inside_80, row.inside_95) for row in of_series])
        steps, n_times, n_inside = counts[:, 0].astype(int) - 1, counts[:, 1:2], counts[:, 2:]
        surplus = np.zeros((steps[-1] + 1, len(LEVELS)))
        surplus[steps] = n_times * NOMINAL_MISCOVERAGE_RATES - (n_times - n_inside)
        rates.setdefault((owner, model, version), {})[unique_id] = miscoverage_rates(LEVELS, surplus)
    return rates
