"""Losses of a challenger in the shadow and of the champion, paired by series, cutoff and step."""

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine, func, select

from forecaster.database.engine import transaction
from forecaster.database.tables import FORECASTS, SCORES
from forecaster.domain.series import Floats

# in units of the champion's median error: a single wrong actual, which both versions miss, must not decide
LARGEST_LOSS = 20.0
# owner, series, time of the forecast's first step, step
_Key = tuple[str, str, int, int]


@dataclass(frozen=True)
class PairedLosses:
    """The mean absolute errors of two versions at each cutoff that both forecast, in chronological order.

    Errors are divided by the champion's median error of the same series, so that a series of large values does not
    dominate, and clipped to `LARGEST_LOSS`.

    Args:
        ours: the challenger's, `(n,)`.
        theirs: the champion's, `(n,)`.
        overlap: the largest number of successive cutoffs whose forecasts have a time in common.
        n_scores: how many scored steps the means come from.
    """

    ours: Floats
    theirs: Floats
    overlap: int
    n_scores: int

    def first(self, n: int) -> "PairedLosses":
        """Return the first `n` cutoffs."""
        return PairedLosses(self.ours[:n], self.theirs[:n], self.overlap, self.n_scores)


def models_with_shadow_scores(engine: Engine) -> list[str]:
    """Return the names of the models that have scored shadow forecasts.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        found = connection.execute(select(SCORES.c.model).where(SCORES.c.is_shadow).distinct()).scalars()
        return sorted(found)


def paired_losses(engine: Engine, model: str, challenger: int, champion: int, since: int, steps: int) -> PairedLosses:
    """Return the paired losses of two versions of a model, over all owners.

    Forecasts by a baseline do not count. Several forecasts of a series from one cutoff count once.

    Args:
        engine: the engine of the database that holds the ledger.
        model: the name of the model.
        challenger: the version that forecasts in the shadow.
        champion: the version that is served.
        since: only forecasts whose first step is later, microseconds since 1970.
        steps: only the first steps of each forecast; steps beyond the trained horizon say little.

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
    errors: dict[bool, dict[_Key, float]] = {True: {}, False: {}}
    ends: dict[int, int] = {}
    with transaction(engine) as connection:
        for owner, unique_id, first_at, step, is_shadow, at, error in connection.execute(statement):
            errors[bool(is_shadow)][owner, unique_id, first_at, step] = float(error)
            ends[first_at] = max(at, ends.get(first_at, at))
    shared = sorted(errors[True].keys() & errors[False].keys(), key=lambda key: key[2])
    units = _median_errors({key: errors[False][key] for key in shared})
    starts, index, counts = np.unique(
        np.array([key[2] for key in shared], dtype=np.int64), return_inverse=True, return_counts=True
    )

    def losses(errors: dict[_Key, float]) -> Floats:
        clipped = [min(errors[key] / units[key[:2]], LARGEST_LOSS) for key in shared]
        return np.asarray(np.bincount(index, clipped, len(starts)) / counts)

    # for each cutoff, how many cutoffs from it on begin before its own forecast ends
    overlaps = np.searchsorted(starts, [ends[start] for start in starts], side="right") - np.arange(len(starts))
    return PairedLosses(losses(errors[True]), losses(errors[False]), int(overlaps.max(initial=1)), len(shared))


def _median_errors(errors: dict[_Key, float]) -> dict[tuple[str, str], float]:
    """Return each series' median error by owner and series; 1 if the median is 0."""
    by_series: dict[tuple[str, str], list[float]] = {}
    for key, error in errors.items():
        by_series.setdefault(key[:2], []).append(error)
    return {series: float(np.median(values)) or 1.0 for series, values in by_series.items()}
