"""Scores of a challenger in the shadow beside the champion's, of the same series, cutoffs and steps."""

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine, func, select

from forecaster.database.engine import transaction
from forecaster.database.tables import FORECASTS, SCORES
from forecaster.domain.series import Floats

# of a loss, in units of the champion's usual one: a single wrong actual, which both miss alike, must not decide
LARGEST_LOSS = 20.0
# owner, series, first time that was forecast, step
Key = tuple[str, str, int, int]


@dataclass(frozen=True)
class Paired:
    """The mean absolute errors of two versions at each cutoff that both forecast, in the order of time.

    They are in units of the champion's median error of the same series, so that a series of large values does not speak
    for all, and limited to `LARGEST_LOSS` of these.

    Args:
        ours: the challenger's, `(n,)`.
        theirs: the champion's, `(n,)`.
        overlap: the most successive cutoffs whose forecasts share a time.
        n_scores: how many steps of forecasts they come from.
    """

    ours: Floats
    theirs: Floats
    overlap: int
    n_scores: int

    def first(self, n: int) -> "Paired":
        """Return the first `n` cutoffs."""
        return Paired(self.ours[:n], self.theirs[:n], self.overlap, self.n_scores)


def models_in_the_shadow(engine: Engine) -> list[str]:
    """Return the models that have scored forecasts of a challenger.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        found = connection.execute(select(SCORES.c.model).where(SCORES.c.is_shadow).distinct()).scalars()
        return sorted(found)


def paired_losses(engine: Engine, model: str, challenger: int, champion: int, since: int, steps: int) -> Paired:
    """Return the errors of two versions of a model, all owners' together.

    Forecasts that the baseline made in a version's place do not count. A series that was asked for several times at one
    cutoff counts once.

    Args:
        engine: the ledger's.
        model: its name.
        challenger: the version that forecasts in the shadow.
        champion: the version that is served.
        since: of forecasts whose first step is later than this, microseconds since 1970.
        steps: of each forecast's first steps; those rolled out beyond the trained horizon say little.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    ours = (SCORES.c.version == challenger) & SCORES.c.is_shadow
    theirs = (SCORES.c.version == champion) & SCORES.c.is_shadow.is_(False)
    keys = (SCORES.c.owner, SCORES.c.unique_id, FORECASTS.c.first_at, SCORES.c.step)
    statement = (
        select(*keys, SCORES.c.is_shadow, func.max(SCORES.c["at"]), func.avg(func.abs(SCORES.c.error)))
        .join(FORECASTS, FORECASTS.c.forecast_id == SCORES.c.forecast_id)
        .where(SCORES.c.model == model, SCORES.c.forecast_by == "model", ours | theirs)
        .where(FORECASTS.c.first_at > since, SCORES.c.step <= steps)
        .group_by(*keys, SCORES.c.is_shadow)
    )
    errors: dict[bool, dict[Key, float]] = {True: {}, False: {}}
    ends: dict[int, int] = {}
    with transaction(engine) as connection:
        for owner, unique_id, first_at, step, is_shadow, at, error in connection.execute(statement):
            errors[bool(is_shadow)][owner, unique_id, first_at, step] = float(error)
            ends[first_at] = max(at, ends.get(first_at, at))
    shared = sorted(errors[True].keys() & errors[False].keys(), key=lambda key: key[2])
    cutoffs = np.array([key[2] for key in shared], dtype=np.int64)
    sizes = _sizes({key: errors[False][key] for key in shared})
    found, number, counts = np.unique(cutoffs, return_inverse=True, return_counts=True)

    def losses(errors: dict[Key, float]) -> Floats:
        limited = [min(errors[key] / sizes[key[:2]], LARGEST_LOSS) for key in shared]
        return np.asarray(np.bincount(number, limited, len(found)) / counts)

    # of each cutoff, those from it on whose first step is no later than its last
    reach = np.searchsorted(found, [ends[cutoff] for cutoff in found], side="right") - np.arange(len(found))
    return Paired(losses(errors[True]), losses(errors[False]), int(reach.max(initial=1)), len(shared))


def _sizes(errors: dict[Key, float]) -> dict[tuple[str, str], float]:
    """Return each series' median error, by owner and name; 1 where that is 0."""
    of_series: dict[tuple[str, str], list[float]] = {}
    for key, error in errors.items():
        of_series.setdefault(key[:2], []).append(error)
    return {series: float(np.median(several)) or 1.0 for series, several in of_series.items()}
