"""Significance: the right statistic, the right size where there is nothing, and power where there is something."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forecaster.domain.errors import DataError
from forecaster.evaluation.significance import block_bootstrap_error, diebold_mariano


def test_one_step_ahead_it_is_nearly_a_paired_t_test() -> None:
    random = np.random.default_rng(1)
    first, second = random.exponential(1.0, 40), random.exponential(1.2, 40)
    found = diebold_mariano(first, second, horizon=1)
    # with one step the correction turns the variance over n into that over n - 1
    theirs = stats.ttest_rel(first, second)
    assert found.statistic == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue)
    less = diebold_mariano(first, second, 1, "less")
    assert less.p_value == pytest.approx(stats.ttest_rel(first, second, alternative="less").pvalue)


def test_by_hand_with_two_steps() -> None:
    difference = np.array([1.0, 2.0, 0.0, 1.0, 3.0, 2.0, 1.0, 2.0])
    centred = difference - 1.5
    variance = (centred @ centred / 8 + 2 * (centred[:-1] @ centred[1:]) / 8) / 8
    correction = np.sqrt((8 + 1 - 4 + 2 / 8) / 8)
    found = diebold_mariano(difference, np.zeros(8), horizon=2)
    assert found.statistic == pytest.approx(1.5 / np.sqrt(variance) * correction)
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.statistic, 7))


def test_exchanged_it_says_the_opposite_and_equal_losses_show_nothing() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(size=50) ** 2, random.normal(size=50) ** 2
    one, other = diebold_mariano(first, second, 3), diebold_mariano(second, first, 3)
    assert (one.statistic, one.p_value) == pytest.approx((-other.statistic, other.p_value))
    same = diebold_mariano(first, first, 3)
    assert (same.statistic, same.p_value) == (0, 1)
    assert diebold_mariano(first, first, 3, "less").p_value == 0.5


def test_where_the_variance_is_not_positive_bartletts_weights_are_used() -> None:
    # autocovariances 1 and -7/8: 1 - 2·7/8 is negative, 1 - 2·(1/2)·7/8 is not
    difference = 0.25 + np.tile([1.0, -1.0], 4)
    found = diebold_mariano(difference, np.zeros(8), horizon=2)
    assert found.statistic == pytest.approx(0.25 / np.sqrt(1 / 8 / 8) * np.sqrt((8 + 1 - 4 + 2 / 8) / 8))


@given(size=st.floats(1e-9, 1e9), horizon=st.integers(1, 6))
def test_the_unit_of_the_losses_does_not_matter(size: float, horizon: int) -> None:
    first, second = np.random.default_rng(6).exponential(size=(2, 30))
    one, other = diebold_mariano(first, second, horizon), diebold_mariano(size * first, size * second, horizon)
    assert (other.statistic, other.p_value) == pytest.approx((one.statistic, one.p_value))


def test_what_rounding_leaves_of_equal_losses_shows_nothing() -> None:
    first = np.random.default_rng(7).exponential(size=50)
    found = diebold_mariano(first, first * (1 + 1e-15), 3)
    assert (found.statistic, found.p_value) == (0, 1)


def test_a_difference_that_is_always_the_same_is_no_chance() -> None:
    low, high = np.zeros(20), np.full(20, 0.5)
    assert diebold_mariano(low, high, 3, "less").p_value == 0
    assert diebold_mariano(high, low, 3, "less").p_value == 1
    assert diebold_mariano(high, low, 3).p_value == 0


@pytest.mark.parametrize("horizon", [1, 5])
def test_where_there_is_no_difference_one_in_twenty_is_significant(horizon: int) -> None:
    random = np.random.default_rng(3)
    noise = random.normal(size=(1500, 200 + horizon))
    # losses that overlap as those of successive origins do
    kernel = np.ones(horizon) / horizon
    rejected = 0
    for row in noise:
        losses = np.convolve(row, kernel, "valid")[:200]
        rejected += diebold_mariano(losses, np.zeros(200), horizon).p_value < 0.05
    assert 0.03 < rejected / len(noise) < 0.075


def test_a_real_difference_is_found() -> None:
    random = np.random.default_rng(4)
    assert diebold_mariano(random.exponential(1, 200), random.exponential(1.6, 200), 1, "less").p_value < 0.01


def test_too_few_windows_are_said() -> None:
    with pytest.raises(DataError, match=r"significance: 7 windows, 8 are needed"):
        diebold_mariano(np.arange(7.0), np.zeros(7), 1)
    with pytest.raises(DataError, match=r"10 windows, 11 are needed"):
        diebold_mariano(np.arange(10.0), np.zeros(10), 10)


def test_the_bootstraps_error_is_that_of_independent_values_and_grows_with_dependence() -> None:
    random = np.random.default_rng(5)
    independent = random.normal(size=400)
    assert block_bootstrap_error(independent, 1) == pytest.approx(independent.std() / 20, rel=0.1)
    dependent = np.repeat(random.normal(size=40), 10)
    assert block_bootstrap_error(dependent, 20) > 2 * block_bootstrap_error(dependent, 1)
    assert block_bootstrap_error(independent, 1) == block_bootstrap_error(independent, 1)


def test_the_bootstraps_error_is_that_of_the_blocks_means() -> None:
    values = np.cumsum(np.random.default_rng(8).normal(size=60))
    means = [np.roll(values, -start)[:12].mean() for start in range(60)]
    # five blocks, each as likely to begin at any row
    assert block_bootstrap_error(values, 12, n_samples=20_000) == pytest.approx(np.std(means) / np.sqrt(5), rel=0.02)
    # one block round the circle is all of the values
    assert block_bootstrap_error(values, 60) == pytest.approx(0, abs=1e-12)
    assert block_bootstrap_error(values, 12, seed=1) != block_bootstrap_error(values, 12, seed=2)
