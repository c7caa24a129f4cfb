"""Conformal intervals: they have their nominal coverage, never cross and contain the median."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain.errors import RequestError
from forecaster.evaluation.conformal import PROBABILITIES, Calibration, calibrate
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.units import Unit


@pytest.mark.parametrize("level", [50, 80, 95])
@pytest.mark.parametrize("n", [99, 399])
def test_intervals_have_nominal_coverage_for_a_skewed_distribution(level: int, n: int) -> None:
    random = np.random.default_rng(level + n)
    edges = np.array([(100 - level) / 200, (100 + level) / 200])
    covered = []
    for _ in range(400):
        residuals, coming = random.gumbel(size=(n, 1)), random.gumbel(size=(100, 1))
        lower, upper = calibrate(residuals, Forecasts(np.zeros((n, 1)))).quantiles(edges)[0]
        covered.append(((coming >= lower) & (coming <= upper)).mean())
    # 400 draws of 100 have a standard error below .003; the nominal excess over the level is at most 2 / (n + 1)
    assert level / 100 - 0.01 <= np.mean(covered) <= level / 100 + 2 / (n + 1) + 0.01


@given(seed=st.integers(0, 2**31), n=st.integers(20, 500), horizon=st.integers(1, 5))
def test_quantiles_never_cross_and_intervals_contain_the_median(seed: int, n: int, horizon: int) -> None:
    residuals = np.random.default_rng(seed).standard_t(2, size=(n, horizon))
    calibration = calibrate(residuals, Forecasts(np.zeros_like(residuals)))
    probabilities = np.linspace(calibration.probabilities[0], calibration.probabilities[-1], 37)
    found = calibration.quantiles(probabilities)
    assert found.shape == (horizon, 37)
    assert (np.diff(found, axis=1) >= 0).all()
    median = calibration.quantiles(np.array([0.5]))
    np.testing.assert_allclose(median[:, 0], np.median(residuals, axis=0))
    assert ((found[:, :1] <= median) & (median <= found[:, -1:])).all()


def test_calibrate_treats_each_step_separately() -> None:
    residuals = np.random.default_rng(0).normal(size=(1000, 2)) * [1, 10]
    near, far = calibrate(residuals, Forecasts(np.zeros_like(residuals))).quantiles(np.array([0.1, 0.9]))
    assert np.ptp(far) > 8 * np.ptp(near)


def test_calibrate_rounds_ranks_outwards() -> None:
    # the 10 % quantile of 50 residuals has rank 5.1, so the 5th smallest and the 5th largest are taken
    calibration = calibrate(np.arange(1.0, 51.0)[:, None], Forecasts(np.zeros((50, 1))))
    np.testing.assert_array_equal(calibration.quantiles(np.array([0.1, 0.9])), [[5, 46]])


def test_calibrate_limits_probabilities_to_what_few_windows_support() -> None:
    calibration = calibrate(np.arange(19.0)[:, None], Forecasts(np.zeros((19, 1))))
    assert calibration.probabilities.tolist() == [p for p in PROBABILITIES if 0.05 <= p <= 0.95]
    # with 19 windows the 5 % quantile is the smallest residual
    np.testing.assert_array_equal(calibration.quantiles(np.array([0.05, 0.95])), [[0, 18]])
    with pytest.raises(RequestError, match=r"0\.01 lies outside the calibrated range 0\.05 to 0\.95 \(19 calibration"):
        calibration.quantiles(np.array([0.01]))


def test_a_single_quantile_is_calibrated() -> None:
    calibration = Calibration(np.array([0.5]), np.array([[1.0], [2.0]]), n_windows=4, n_effective=4.0)
    predicted = Forecasts(np.zeros((3, 2)), np.tile(np.linspace(-1, 1, len(PROBABILITIES)), (3, 2, 1)))
    found = calibration.around(predicted, np.ones((3, 1)), np.full((1, 2, 1), 0.5))
    np.testing.assert_allclose(found, np.tile([[1.0], [2.0]], (3, 1, 1)), atol=1e-12)


def test_volatility_unit_equalizes_coverage_in_calm_and_volatile_periods() -> None:
    random = np.random.default_rng(0)
    size = np.where(np.arange(6000) // 300 % 2, 5.0, 1.0)
    y = np.cumsum(size * random.normal(size=6000))
    inputs = np.lib.stride_tricks.sliding_window_view(y, 40)[:-1]
    actual, mean = y[40:, None], inputs[:, -1:]
    half = len(inputs) // 2
    covered = {}
    for scale in ("constant", "ewma"):
        calibration = calibrate(actual[:half], Forecasts(mean[:half]), inputs[:half], Unit(scale))
        low, high = calibration.bands(inputs[half:], [80], Forecasts(mean[half:]))[80]
        inside = (actual[half:] >= low) & (actual[half:] <= high)
        wild = size[half + 40 :] > 1
        covered[scale] = (inside[wild].mean(), inside[~wild].mean())
    assert covered["constant"][0] < 0.7 and covered["constant"][1] > 0.95
    assert covered["ewma"] == pytest.approx((0.8, 0.8), abs=0.05)
