"""Significance tests: statistic, size under the null hypothesis, and power."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forecaster.domain.errors import DataError
from forecaster.evaluation.significance import block_bootstrap_error, diebold_mariano


def test_diebold_mariano_of_one_step_matches_the_paired_t_test() -> None:
    random = np.random.default_rng(1)
    first, second = random.exponential(1.0, 40), random.exponential(1.2, 40)
    found = diebold_mariano(first, second, horizon=1)
    # with one step the correction replaces the divisor n of the variance by n - 1
    theirs = stats.ttest_rel(first, second)
    assert found.statistic == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.mean_difference == pytest.approx((first - second).mean())
    less = diebold_mariano(first, second, 1, "less")
    assert less.p_value == pytest.approx(stats.ttest_rel(first, second, alternative="less").pvalue)


def test_diebold_mariano_of_two_steps_matches_values_computed_by_hand() -> None:
    difference = np.array([1.0, 2.0, 0.0, 1.0, 3.0, 2.0, 1.0, 2.0])
    centred = difference - 1.5
    variance = (centred @ centred / 8 + 2 * (centred[:-1] @ centred[1:]) / 8) / 8
    correction = np.sqrt((8 + 1 - 4 + 2 / 8) / 8)
    found = diebold_mariano(difference, np.zeros(8), horizon=2)
    assert found.statistic == pytest.approx(1.5 / np.sqrt(variance) * correction)
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.statistic, 7))


def test_diebold_mariano_is_antisymmetric_and_equal_losses_are_not_significant() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(size=50) ** 2, random.normal(size=50) ** 2
    found, swapped = diebold_mariano(first, second, 3), diebold_mariano(second, first, 3)
    assert (found.statistic, found.p_value) == pytest.approx((-swapped.statistic, swapped.p_value))
    same = diebold_mariano(first, first, 3)
    assert (same.statistic, same.p_value) == (0, 1)
    assert diebold_mariano(first, first, 3, "less").p_value == 0.5


def test_diebold_mariano_uses_bartlett_weights_if_the_variance_is_not_positive() -> None:
    # autocovariances 1 and -7/8: 1 - 2·7/8 is negative, 1 - 2·(1/2)·7/8 is not
    difference = 0.25 + np.tile([1.0, -1.0], 4)
    found = diebold_mariano(difference, np.zeros(8), horizon=2)
    assert found.statistic == pytest.approx(0.25 / np.sqrt(1 / 8 / 8) * np.sqrt((8 + 1 - 4 + 2 / 8) / 8))


@given(size=st.floats(1e-9, 1e9), horizon=st.integers(1, 6))
def test_diebold_mariano_is_independent_of_the_unit(size: float, horizon: int) -> None:
    first, second = np.random.default_rng(6).exponential(size=(2, 30))
    found, scaled = diebold_mariano(first, second, horizon), diebold_mariano(size * first, size * second, horizon)
    assert (scaled.statistic, scaled.p_value) == pytest.approx((found.statistic, found.p_value))


def test_diebold_mariano_ignores_rounding_errors_of_equal_losses() -> None:
    first = np.random.default_rng(7).exponential(size=50)
    found = diebold_mariano(first, first * (1 + 1e-15), 3)
    assert (found.statistic, found.p_value) == (0, 1)


def test_diebold_mariano_of_a_constant_difference_is_certain() -> None:
    low, high = np.zeros(20), np.full(20, 0.5)
    assert diebold_mariano(low, high, 3, "less").p_value == 0
    assert diebold_mariano(high, low, 3, "less").p_value == 1
    assert diebold_mariano(high, low, 3).p_value == 0


@pytest.mark.parametrize("horizon", [1, 5])
def test_diebold_mariano_has_its_nominal_size(horizon: int) -> None:
    random = np.random.default_rng(3)
    noise = random.normal(size=(1500, 200 + horizon))
    # a moving average, because the losses of successive origins overlap
    kernel = np.ones(horizon) / horizon
    rejected = 0
    for row in noise:
        losses = np.convolve(row, kernel, "valid")[:200]
        rejected += diebold_mariano(losses, np.zeros(200), horizon).p_value < 0.05
    assert 0.03 < rejected / len(noise) < 0.075


def test_diebold_mariano_detects_a_real_difference() -> None:
    random = np.random.default_rng(4)
    assert diebold_mariano(random.exponential(1, 200), random.exponential(1.6, 200), 1, "less").p_value < 0.01


def test_diebold_mariano_reports_too_few_windows() -> None:
    with pytest.raises(DataError, match=r"significance: 7 windows are too few, 8 are needed"):
        diebold_mariano(np.arange(7.0), np.zeros(7), 1)
    with pytest.raises(DataError, match=r"10 windows are too few, 11 are needed"):
        diebold_mariano(np.arange(10.0), np.zeros(10), 10)


def test_block_bootstrap_error_grows_with_autocorrelation() -> None:
    random = np.random.default_rng(5)
    independent = random.normal(size=400)
    assert block_bootstrap_error(independent, 1) == pytest.approx(independent.std() / 20, rel=0.1)
    dependent = np.repeat(random.normal(size=40), 10)
    assert block_bootstrap_error(dependent, 20) > 2 * block_bootstrap_error(dependent, 1)
    assert block_bootstrap_error(independent, 1) == block_bootstrap_error(independent, 1)


def test_block_bootstrap_error_matches_the_spread_of_block_means() -> None:
    values = np.cumsum(np.random.default_rng(8).normal(size=60))
    means = [np.roll(values, -start)[:12].mean() for start in range(60)]
    # the mean of five blocks, whose starts are uniform
    assert block_bootstrap_error(values, 12, n_samples=20_000) == pytest.approx(np.std(means) / np.sqrt(5), rel=0.02)
    # a single circular block contains all values
    assert block_bootstrap_error(values, 60) == pytest.approx(0, abs=1e-12)
    assert block_bootstrap_error(values, 12, seed=1) != block_bootstrap_error(values, 12, seed=2)
