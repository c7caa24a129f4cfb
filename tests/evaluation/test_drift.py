"""Drift: values computed by hand, and 0 for the training data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.drift import count_bins, measure_drift, reference_bins


def test_measure_drift_matches_values_computed_by_hand() -> None:
    drift = measure_drift(np.array([30, 70]), np.array([0.5, 0.5]))
    assert drift.psi == pytest.approx(-0.2 * np.log(0.6) + 0.2 * np.log(1.4))
    assert drift.ks == pytest.approx(0.2)


def test_count_bins_puts_a_value_on_an_edge_into_the_upper_bin() -> None:
    assert count_bins(np.array([-5.0, 1.0, 1.5, 2.0, 9.0]), np.array([1.0, 2.0])).tolist() == [1, 2, 2]


@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 100), shift=st.floats(0.5, 10))
def test_measure_drift_is_zero_for_training_data_and_large_for_shifted_data(
    seed: int, spread: float, shift: float
) -> None:
    values = np.random.default_rng(seed).normal(size=2000) * spread
    edges, shares = reference_bins(values)
    assert shares.sum() == pytest.approx(1)
    same = measure_drift(count_bins(values, edges), shares)
    assert (same.psi, same.ks) == pytest.approx((0, 0), abs=1e-12)
    moved = measure_drift(count_bins(values + shift * spread, edges), shares)
    assert moved.psi > 0.1
    assert moved.ks > 0.15


def test_reference_bins_supports_constant_values() -> None:
    edges, shares = reference_bins(np.full(50, 3.0))
    assert measure_drift(count_bins(np.full(5, 3.0), edges), shares).ks == 0
    assert measure_drift(count_bins(np.full(5, 2.0), edges), shares).ks == 1
