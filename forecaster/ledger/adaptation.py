"""Adaptive intervals of served forecasts: what was covered so far moves the share of misses that is allowed next.

Source: Gibbs & Candès (2021), arXiv 2106.00170, equation 2, per series and horizon step. Without clipping, its sum is a
matter of counts: the share allowed now is α + γ·(n·α − misses).
"""

import numpy as np
from sqlalchemy import Engine, func, select

from forecaster.database.engine import transaction
from forecaster.database.tables import SCORES
from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import ADAPTION_RATE
from forecaster.ledger.entries import LEVELS

SHARES = np.array([1 - level / 100 for level in LEVELS])
# of misses: an interval is never wider than its calibration knows, nor none at all
_LEAST, _MOST = 0.001, 0.9


def read_allowed(engine: Engine, model: str, version: int) -> dict[str, Floats]:
    """Return by series which share of misses is allowed now, `(steps, levels)`, levels as `LEVELS`.

    A time that was forecast often from the same step counts once.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    inside = [SCORES.c.is_inside_80, SCORES.c.is_inside_95]
    own = (SCORES.c.model == model, SCORES.c.version == version, SCORES.c.forecast_by == "model")
    once = (
        select(
            SCORES.c.unique_id,
            SCORES.c.step,
            *(func.avg(one * 1.0).label(f"inside_{number}") for number, one in enumerate(inside)),
        )
        .where(*own, SCORES.c.is_shadow.is_(False), *(one.is_not(None) for one in inside))
        .group_by(SCORES.c.unique_id, SCORES.c.step, SCORES.c["at"])
        .subquery()
    )
    counts = select(once.c.unique_id, once.c.step, func.count(), func.sum(once.c.inside_0), func.sum(once.c.inside_1))
    allowed: dict[str, Floats] = {}
    with transaction(engine) as connection:
        rows = connection.execute(counts.group_by(once.c.unique_id, once.c.step).order_by(once.c.step.desc())).all()
    for unique_id, step, count, *covered in rows:
        misses = count - np.array([float(one) for one in covered])
        # the last step comes first, and with it the number of steps
        of_series = allowed.setdefault(unique_id, np.tile(SHARES, (step, 1)))
        of_series[step - 1] = np.clip(SHARES + ADAPTION_RATE * (count * SHARES - misses), _LEAST, _MOST)
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
