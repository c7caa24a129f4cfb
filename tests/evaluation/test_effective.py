"""Effective number of windows: overlap and correlation between series reduce it."""

import numpy as np
import pytest

from benchmarks.overlap import ALLOWED, CASES, covered
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.effective import effective_windows
from forecaster.evaluation.forecasts import Forecasts


@pytest.mark.parametrize(("horizon", "n_windows"), CASES)
@pytest.mark.parametrize("level", ALLOWED)
def test_few_overlapping_windows_have_nominal_coverage_or_refuse_the_level(
    horizon: int, n_windows: int, level: int
) -> None:
    share, refused = covered(horizon, n_windows, level, n_walks=150)
    assert refused == 1 or abs(100 * share - level) <= ALLOWED[level]


def test_supported_levels_are_not_refused_for_few_windows() -> None:
    assert covered(5, 100, 80, n_walks=20)[1] == 0
    assert covered(5, 400, 95, n_walks=20)[1] == 0


def test_effective_windows_counts_independent_windows_fully_and_overlapping_ones_partly() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=(2000, 10))
    measured, worst = effective_windows(noise, np.arange(2000))
    assert measured.min() > 1500
    assert worst.tolist() == [2000 / step for step in range(1, 11)]
    walk = np.lib.stride_tricks.sliding_window_view(np.cumsum(random.normal(size=2010)), 11)
    measured, _ = effective_windows(walk[:, 1:] - walk[:, :1], np.arange(2000))
    assert measured[0] > 1800
    assert 200 <= measured[-1] < 700


def test_effective_windows_counts_identical_series_once() -> None:
    random = np.random.default_rng(0)
    apart, together = random.normal(size=(300, 8)), np.repeat(random.normal(size=(300, 1)), 8, axis=1)
    cutoffs = np.repeat(np.arange(300), 8)
    assert effective_windows(apart.reshape(-1, 1), cutoffs)[0] > 1500
    assert effective_windows(together.reshape(-1, 1), cutoffs)[0] == pytest.approx(300)


def test_calibrate_ignores_window_order_and_cutoff_type() -> None:
    walk = np.lib.stride_tricks.sliding_window_view(np.cumsum(np.random.default_rng(0).normal(size=405)), 6)
    actual, last, cutoffs = walk[:, 1:], np.repeat(walk[:, :1], 5, axis=1), np.arange(400)
    order = np.random.default_rng(1).permutation(400)
    ordered = calibrate(actual, Forecasts(last), cutoffs=cutoffs)
    shuffled = calibrate(actual[order], Forecasts(last[order]), cutoffs=np.datetime64("2020-01-01") + cutoffs[order])
    np.testing.assert_array_equal(ordered.residuals, shuffled.residuals)
    assert ordered.n_effective == shuffled.n_effective < 300
