"""Effective windows: overlapping horizons and series that move together are worth fewer than they are."""

import numpy as np
import pytest

from benchmarks.overlap import ALLOWED, CASES, covered
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.effective import effective_windows


@pytest.mark.parametrize(("horizon", "n_windows"), CASES)
@pytest.mark.parametrize("level", ALLOWED)
def test_few_overlapping_windows_of_random_walks_cover_what_is_promised_or_refuse(
    horizon: int, n_windows: int, level: int
) -> None:
    share, refused = covered(horizon, n_windows, level, n_walks=150)
    assert refused == 1 or abs(100 * share - level) <= ALLOWED[level]


def test_a_level_that_few_windows_support_is_not_refused() -> None:
    assert covered(5, 100, 80, n_walks=20)[1] == 0
    assert covered(5, 400, 95, n_walks=20)[1] == 0


def test_independent_windows_are_worth_what_they_are_and_a_walks_horizons_less() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=(2000, 10))
    measured, worst = effective_windows(noise, np.arange(2000))
    assert measured.min() > 1500
    assert worst.tolist() == [2000 / step for step in range(1, 11)]
    walk = np.lib.stride_tricks.sliding_window_view(np.cumsum(random.normal(size=2010)), 11)
    measured, _ = effective_windows(walk[:, 1:] - walk[:, :1], np.arange(2000))
    assert measured[0] > 1800
    assert 200 <= measured[-1] < 700


def test_series_that_move_together_are_worth_one() -> None:
    random = np.random.default_rng(0)
    apart, together = random.normal(size=(300, 8)), np.repeat(random.normal(size=(300, 1)), 8, axis=1)
    cutoffs = np.repeat(np.arange(300), 8)
    assert effective_windows(apart.reshape(-1, 1), cutoffs)[0] > 1500
    assert effective_windows(together.reshape(-1, 1), cutoffs)[0] == pytest.approx(300)


def test_the_order_of_windows_and_the_clock_of_their_cutoffs_say_nothing() -> None:
    walk = np.lib.stride_tricks.sliding_window_view(np.cumsum(np.random.default_rng(0).normal(size=405)), 6)
    actual, last, cutoffs = walk[:, 1:], np.repeat(walk[:, :1], 5, axis=1), np.arange(400)
    order = np.random.default_rng(1).permutation(400)
    one = calibrate(actual, last, cutoffs=cutoffs)
    other = calibrate(actual[order], last[order], cutoffs=np.datetime64("2020-01-01") + cutoffs[order])
    np.testing.assert_array_equal(one.residuals, other.residuals)
    assert one.n_effective == other.n_effective < 300
