"""Is one forecast better than another, or is the difference what chance makes?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecaster.domain.errors import DataError
from forecaster.domain.series import Floats

LEAST_WINDOWS = 8


@dataclass(frozen=True)
class Comparison:
    """What the Diebold–Mariano test says.

    Args:
        statistic: below 0 where the first has the smaller losses.
        p_value: how likely so large a difference is if there is none.
        mean_difference: the mean of the first's losses less the second's.
        n: how many losses were compared.
    """

    statistic: float
    p_value: float
    mean_difference: float
    n: int


def diebold_mariano(
    first: Floats, second: Floats, horizon: int, alternative: Literal["two-sided", "less"] = "two-sided"
) -> Comparison:
    """Test whether two forecasts' losses differ, or with `less` whether the first's are smaller.

    Args:
        first: losses of successive origins, `(n,)`.
        second: the other's on the same rows, `(n,)`.
        horizon: how many origins a loss overlaps with, itself included; the losses depend on each other that far.
        alternative: what is to be shown.

    Raises:
        DataError: there are fewer than `LEAST_WINDOWS` losses, or not more than `horizon`.

    Source: Diebold & Mariano (1995), doi:10.1080/07350015.1995.10524599; the small-sample correction of Harvey,
    Leybourne & Newbold (1997), doi:10.1016/S0169-2070(96)00719-4, equation 9. Where the rectangular variance is not
    positive, Bartlett's weights are used instead.
    """
    from scipy import stats

    difference = first - second
    n = len(difference)
    if n < LEAST_WINDOWS or n <= horizon:
        least = max(LEAST_WINDOWS, horizon + 1)
        raise DataError(f"significance: {n} windows, {least} are needed; raise n_windows, or lower horizon")
    mean = float(difference.mean())
    # what rounding leaves of equal losses
    if np.allclose(difference, 0, atol=1e-12 * float(np.abs(first).max())):
        return Comparison(0.0, 0.5 if alternative == "less" else 1.0, mean, n)
    correction = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    variance = _long_run_variance(difference, horizon) / n
    if variance <= 0:
        # always the same difference: nothing is left to chance
        is_unlikely = mean < 0 or alternative == "two-sided"
        return Comparison(float(np.copysign(np.inf, mean)), 0.0 if is_unlikely else 1.0, mean, n)
    statistic = float(mean / np.sqrt(variance) * np.sqrt(max(correction, 0.0)))
    tail = stats.t.cdf(statistic, n - 1) if alternative == "less" else 2 * stats.t.cdf(-abs(statistic), n - 1)
    return Comparison(statistic, float(tail), mean, n)


def block_bootstrap_error(values: Floats, block: int, n_samples: int = 2000, seed: int = 0) -> float:
    """Return the standard error of the mean of values `(n,)` that depend on their neighbours.

    Args:
        values: in the order of time.
        block: how many neighbours are drawn together, at most `n`.
        n_samples: how many means are drawn.
        seed: decides the draws.

    Source: Politis & Romano (1992), the circular block bootstrap.
    """
    n = len(values)
    block = min(block, n)
    count = -(-n // block)
    starts = np.random.default_rng(seed).integers(0, n, (n_samples, count))
    rows = (starts[:, :, None] + np.arange(block)).reshape(n_samples, -1)[:, :n] % n
    return float(values[rows].mean(axis=1).std(ddof=1))


def _long_run_variance(difference: Floats, horizon: int) -> float:
    centred = difference - difference.mean()
    n = len(centred)
    covariances = np.array([centred[: n - lag] @ centred[lag:] / n for lag in range(horizon)])
    rectangular = float(covariances[0] + 2 * covariances[1:].sum())
    if rectangular > 0:
        return rectangular
    weights = 1 - np.arange(1, horizon) / horizon
    return float(covariances[0] + 2 * (weights * covariances[1:]).sum())
