"""Tests whether two forecasts differ significantly in their losses."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecaster.domain.errors import DataError
from forecaster.domain.series import Floats

MIN_WINDOWS = 8
# with two blocks the t distribution has one degree of freedom and the test no power
MIN_BLOCKS = 3
# more blocks add little power, and longer blocks are less dependent
MAX_BLOCKS = 32


@dataclass(frozen=True)
class Comparison:
    """The result of a Diebold–Mariano test.

    Args:
        statistic: below 0 if the first forecast has the smaller losses.
        p_value: the p-value of the hypothesis of equal losses.
        mean_difference: the mean of the first forecast's losses minus the second's.
        n: number of losses compared.
    """

    statistic: float
    p_value: float
    mean_difference: float
    n: int


@dataclass(frozen=True)
class Ratio:
    """The ratio of two forecasts' mean losses with its standard error.

    Args:
        value: the first forecast's mean loss divided by the second's; below 1 the first is better.
        error: the standard error.
        n_blocks: number of blocks of successive losses behind the standard error.
    """

    value: float
    error: float
    n_blocks: int

    def p_below(self, limit: float = 1.0) -> float:
        """Return the p-value of the hypothesis that the true ratio is at least `limit`, one-sided."""
        from scipy import stats

        if self.error == 0:
            # equal up to rounding
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
    """Return the ratio of two forecasts' mean losses; None if there are too few losses or the second's are all 0.

    The influence of each origin on the ratio (delta method) is averaged over blocks of successive origins, each at
    least as long as the overlap of the horizons. A t-test on the block means holds its level in small samples, where
    autocovariance estimates of the variance are too small, and under changing variance of the losses. The covariance
    of neighbouring blocks is added on the assumption that errors are sums of independent steps.

    Args:
        first: the first forecast's losses at successive origins, `(n,)`.
        second: the second forecast's losses at the same origins, `(n,)`.
        overlap: number of successive origins that forecast the same time, at least 1.

    Source: Ibragimov & Müller (2010), doi:10.1198/jbes.2009.08046.
    """
    n_blocks = min(len(first) // overlap, MAX_BLOCKS)
    if n_blocks < MIN_BLOCKS or not second.any():
        return None
    value = float(first.mean() / second.mean())
    influence = (first - value * second) / second.mean()
    means = np.array([block.mean() for block in np.array_split(influence, n_blocks)])
    # losses that are equal up to rounding
    if np.allclose(means, 0, atol=1e-12):
        return Ratio(value, 0.0, n_blocks)
    shared = _shared_by_blocks(len(first) // n_blocks, overlap)
    return Ratio(value, float(means.std(ddof=1) / np.sqrt(n_blocks * (1 - shared))), n_blocks)


def _shared_by_blocks(length: int, overlap: int) -> float:
    """Return the share of the mean's variance that blocks of `length` origins miss because horizons cross their edges.

    A block's sum gives less weight to steps near its edge than to steps in its middle; the next block has the rest.
    """
    weights = np.convolve(np.ones(length), np.full(overlap, 1 / overlap))
    return float(1 - (weights**2).sum() / length)


def diebold_mariano(
    first: Floats, second: Floats, horizon: int, alternative: Literal["two-sided", "less"] = "two-sided"
) -> Comparison:
    """Test whether two forecasts' losses differ or, with `less`, whether the first's are smaller.

    Args:
        first: the first forecast's losses at successive origins, `(n,)`.
        second: the second forecast's losses at the same origins, `(n,)`.
        horizon: number of origins that a loss overlaps with, itself included; losses are correlated up to this lag.
        alternative: the alternative hypothesis.

    Raises:
        DataError: there are fewer than `MIN_WINDOWS` losses, or at most `horizon`.

    Source: Diebold & Mariano (1995), doi:10.1080/07350015.1995.10524599; the small-sample correction of Harvey,
    Leybourne & Newbold (1997), doi:10.1016/S0169-2070(96)00719-4, equation 9. If the variance with rectangular weights
    is not positive, Bartlett weights are used.
    """
    from scipy import stats

    difference = first - second
    n = len(difference)
    if n < MIN_WINDOWS or n <= horizon:
        least = max(MIN_WINDOWS, horizon + 1)
        raise DataError(f"significance: {n} windows are too few, {least} are needed; raise n_windows or lower horizon")
    mean = float(difference.mean())
    # losses that are equal up to rounding
    if np.allclose(difference, 0, atol=1e-12 * float(np.abs(first).max())):
        return Comparison(0.0, 0.5 if alternative == "less" else 1.0, mean, n)
    correction = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    variance = _long_run_variance(difference, horizon) / n
    if variance <= 0:
        # a constant difference has no variance
        is_unlikely = mean < 0 or alternative == "two-sided"
        return Comparison(float(np.copysign(np.inf, mean)), 0.0 if is_unlikely else 1.0, mean, n)
    statistic = float(mean / np.sqrt(variance) * np.sqrt(max(correction, 0.0)))
    tail = stats.t.cdf(statistic, n - 1) if alternative == "less" else 2 * stats.t.cdf(-abs(statistic), n - 1)
    return Comparison(statistic, float(tail), mean, n)


def block_bootstrap_error(values: Floats, block: int, n_samples: int = 2000, seed: int = 0) -> float:
    """Return the standard error of the mean of autocorrelated values, by the circular block bootstrap.

    Args:
        values: in chronological order, `(n,)`.
        block: the block length, at most `n`.
        n_samples: number of resampled means.
        seed: the random seed.

    Source: Politis & Romano (1992).
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
