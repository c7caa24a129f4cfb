"""Baselines: values computed by hand, and a ridge regression that recovers linear maps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.baselines import BASELINES, random_walk_bands
from forecaster.evaluation.ridge import fit_ridge

INPUTS = np.array([[1.0, 2.0, 4.0, 7.0], [5.0, 5.0, 5.0, 5.0]])


@pytest.mark.parametrize(
    ("name", "season_length", "expected"),
    [
        ("naive", 1, [[7, 7, 7], [5, 5, 5]]),
        ("seasonal_naive", 2, [[4, 7, 4], [5, 5, 5]]),
        ("seasonal_naive", 4, [[1, 2, 4], [5, 5, 5]]),
        # the inputs are shorter than a season
        ("seasonal_naive", 5, [[7, 7, 7], [5, 5, 5]]),
        ("drift", 1, [[9, 11, 13], [5, 5, 5]]),
        ("window_mean", 1, [[3.5, 3.5, 3.5], [5, 5, 5]]),
    ],
)
def test_baselines_match_values_computed_by_hand(name: str, season_length: int, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(BASELINES[name](INPUTS, 3, season_length), expected)


@given(size=st.floats(1e-3, 1e6), level=st.floats(-1e3, 1e3), chunk=st.integers(7, 400))
def test_ridge_recovers_a_linear_map_in_any_unit(size: float, level: float, chunk: int) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(400, 6))
    law = random.normal(size=(6, 2))
    targets = inputs[:, -1:] + (inputs - inputs[:, -1:]) @ law + 0.5
    inputs, targets = level + size * inputs, level + size * targets
    pairs = ((inputs[begin : begin + chunk], targets[begin : begin + chunk]) for begin in range(0, 400, chunk))
    ridge = fit_ridge(pairs, penalty=1e-9)
    np.testing.assert_allclose(ridge.predict(inputs), targets, atol=1e-5 * size * 20)


def test_ridge_penalty_is_relative_to_the_mean_square_of_the_inputs() -> None:
    # minus their last value, the inputs are (-2, 0) and (2, 0), the targets -4 and 4
    # the sums of squares are 8 and 0, with mean 4; the sum of products is 16, so the weight is 16 / (8 + .5·4)
    inputs, targets = np.array([[-1.0, 1.0], [3.0, 1.0]]), np.array([[-3.0], [5.0]])
    ridge = fit_ridge([(inputs, targets)], penalty=0.5)
    np.testing.assert_allclose(ridge.weights, [[1.6], [0.0]], atol=1e-12)
    np.testing.assert_allclose(ridge.intercept, [0.0], atol=1e-12)
    np.testing.assert_allclose(ridge.predict(inputs), [[1 - 3.2], [1 + 3.2]])


def test_ridge_repeats_constants() -> None:
    inputs = np.full((20, 4), 3.0)
    np.testing.assert_allclose(fit_ridge([(inputs, inputs[:, :2])]).predict(inputs), inputs[:, :2])


def test_random_walk_bands_have_nominal_coverage() -> None:
    """Test the coverage on Gaussian walks at each step, and a width of 0 on constant inputs."""
    walks = np.cumsum(np.random.default_rng(0).normal(size=(4000, 110)), axis=1)
    inputs, actual = walks[:, :100], walks[:, 100:]
    low, high = random_walk_bands(inputs, 10, 80)
    covered = ((actual >= low) & (actual <= high)).mean(axis=0)
    # slightly below 80 %, because the volatility is estimated
    np.testing.assert_allclose(covered, 0.79, atol=0.025)
    flat = random_walk_bands(np.ones((1, 5)), 3, 80)
    np.testing.assert_array_equal(flat, np.ones((2, 1, 3)))
