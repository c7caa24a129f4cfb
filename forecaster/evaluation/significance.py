"""Tests of whether one forecast's losses are smaller than another's, or differ by chance."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecaster.domain.errors import DataError
from forecaster.domain.series import Floats

LEAST_WINDOWS = 8
# of two blocks the t distribution has one degree of freedom, and says nothing
LEAST_BLOCKS = 3
# more add little to the power of the test, and longer blocks depend less on each other
MOST_BLOCKS = 32


@dataclass(frozen=True)
class Comparison:
    """What the Diebold–Mariano test says.

    Args:
        statistic: below 0 where the first has the smaller losses.
        p_value: how likely so large a difference is if there is none.
        n: how many losses were compared.
    """

    statistic: float
    p_value: float
    n: int


@dataclass(frozen=True)
class Ratio:
    """The ratio of two forecasts' mean losses, and how far chance may have moved it.

    Args:
        value: the first's mean loss over the second's; below 1 the first is better.
        error: its standard error.
        n_blocks: how many blocks of successive losses the error comes from.
    """

    value: float
    error: float
    n_blocks: int

    def p_below(self, limit: float = 1.0) -> float:
        """Return the p-value of the hypothesis that the true ratio is at least `limit`, one-sided."""
        from scipy import stats

        if self.error == 0:
            # up to rounding, which is no difference
            return 0.5 if abs(self.value - limit) < 1e-9 else float(self.value > limit)
        return float(stats.t.cdf((self.value - limit) / self.error, self.n_blocks - 1))

    def p_above(self, limit: float = 1.0) -> float:
        """Return the p-value of the hypothesis that the true ratio is at most `limit`, one-sided."""
        return 1 - self.p_below(limit)

    def upper(self, significance: float) -> float:
        """Return the one-sided upper confidence bound of the ratio at the level `1 - significance`."""
        from scipy import stats

        return float(self.value + stats.t.ppf(1 - significance, self.n_blocks - 1) * self.error)


def compare_losses(first: Floats, second: Floats, overlap: int) -> Ratio | None:
    """Return the ratio of two forecasts' mean losses; None where there are too few to tell, or the second's are all 0.

    The influence of each origin on the ratio (the delta method) is averaged in blocks of successive origins, each at
    least as long as horizons overlap. The t-test on the blocks' means holds its level in small samples, where variances
    from autocovariances are too small, and when the losses' variance changes over time. What neighbouring blocks share
    is added, as if errors were sums of independent steps.

    Args:
        first: losses of successive origins, `(n,)`.
        second: the other's on the same rows, `(n,)`.
        overlap: how many successive origins share a forecast time, itself included.

    Source: Ibragimov & Müller (2010), doi:10.1198/jbes.2009.08046.
    """
    n_blocks = min(len(first) // overlap, MOST_BLOCKS)
    if n_blocks < LEAST_BLOCKS or not second.any():
        return None
    value = float(first.mean() / second.mean())
    influence = (first - value * second) / second.mean()
    means = np.array([block.mean() for block in np.array_split(influence, n_blocks)])
    # what rounding leaves of equal losses
    if np.allclose(means, 0, atol=1e-12):
        return Ratio(value, 0.0, n_blocks)
    shared = _shared_by_blocks(len(first) // n_blocks, overlap)
    return Ratio(value, float(means.std(ddof=1) / np.sqrt(n_blocks * (1 - shared))), n_blocks)


def _shared_by_blocks(length: int, overlap: int) -> float:
    """Return which part of a mean's variance blocks of `length` origins miss, because horizons reach into the next one.

    A block's sum weighs the step at its edges less than those in its middle, and the neighbour has the rest.
    """
    weights = np.convolve(np.ones(length), np.full(overlap, 1 / overlap))
    return float(1 - (weights**2).sum() / length)


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
        return Comparison(0.0, 0.5 if alternative == "less" else 1.0, n)
    correction = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    variance = _long_run_variance(difference, horizon) / n
    if variance <= 0:
        # always the same difference: nothing is left to chance
        is_unlikely = mean < 0 or alternative == "two-sided"
        return Comparison(float(np.copysign(np.inf, mean)), 0.0 if is_unlikely else 1.0, n)
    statistic = float(mean / np.sqrt(variance) * np.sqrt(max(correction, 0.0)))
    tail = stats.t.cdf(statistic, n - 1) if alternative == "less" else 2 * stats.t.cdf(-abs(statistic), n - 1)
    return Comparison(statistic, float(tail), n)


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
