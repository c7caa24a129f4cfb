"""Adaptive intervals of served forecasts: what was covered so far moves the share of misses that is allowed next.

Source: Gibbs & Candès (2021), arXiv 2106.00170, equation 2, per series and horizon step. Without clipping, its sum is a
matter of counts: the share allowed now is α + γ·(n·α − misses).
"""

from itertools import groupby

import numpy as np
from sqlalchemy import ColumnElement, Engine, select

from forecaster.database.engine import transaction
from forecaster.database.tables import STEPS
from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import ADAPTION_RATE
from forecaster.ledger.entries import LEVELS
from forecaster.ledger.tallies import Of

SHARES = np.array([1 - level / 100 for level in LEVELS])
# of misses: an interval is never wider than its calibration knows, nor none at all
_LEAST, _MOST = 0.001, 0.9


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
        shares = np.tile(SHARES, (steps[-1] + 1, 1))
        shares[steps] = np.clip(SHARES + ADAPTION_RATE * (count * SHARES - (count - covered)), _LEAST, _MOST)
        allowed.setdefault((owner, model, version), {})[unique_id] = shares
    return allowed


def adapted_tails(probabilities: tuple[float, ...], allowed: Floats) -> Floats:
    """Return the probabilities to look up for those that were asked for, `(n, steps, len(probabilities))`.

    Between the levels that are counted the shares of misses are interpolated, so that intervals never cross.

    Args:
        probabilities: 0–1.
        allowed: `(n, steps, levels)`, as `read_allowed` has them.
    """
    of_95 = np.minimum(allowed[:, :, 1], allowed[:, :, 0])
    of_80 = allowed[:, :, 0]
    known, tails = np.array([0.0, SHARES[1], SHARES[0], 1.0]), np.empty((*of_80.shape, len(probabilities)))
    moved = np.stack([np.zeros_like(of_80), of_95, of_80, np.ones_like(of_80)])
    for number, probability in enumerate(probabilities):
        share = 2 * min(probability, 1 - probability)
        right = int(np.clip(np.searchsorted(known, share), 1, len(known) - 1))
        weight = (share - known[right - 1]) / (known[right] - known[right - 1])
        tail = (moved[right - 1] + weight * (moved[right] - moved[right - 1])) / 2
        tails[:, :, number] = tail if probability <= 0.5 else 1 - tail
    return tails
