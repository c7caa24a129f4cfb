"""Scores of quantiles and intervals agree with values computed by hand and with utilsforecast."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecaster.domain.series import Floats
from forecaster.evaluation.probabilistic import coverage, pinball, scaled_crps, width, winkler

ACTUAL = np.array([[1.0, 4.0]])
QUANTILES = np.array([[[0.0, 2.0], [3.0, 5.0]]])
PROBABILITIES = np.array([0.1, 0.9])


def test_scores_match_values_computed_by_hand() -> None:
    # .1·(1 - 0), .1·(2 - 1); .1·(4 - 3), .1·(5 - 4)
    assert pinball(ACTUAL, QUANTILES, PROBABILITIES) == pytest.approx(0.1)
    assert scaled_crps(ACTUAL, QUANTILES, PROBABILITIES) == pytest.approx(2 * 0.1 * 2 / 5)
    low, high = np.array([[2.0, 3.0]]), np.array([[3.0, 5.0]])
    assert coverage(ACTUAL, low, high) == 0.5
    assert width(low, high) == 1.5
    # widths 1 and 2, plus 2 / .2 for the miss by 1
    assert winkler(ACTUAL, low, high, 80) == pytest.approx((1 + 2 + 10) / 2)


def test_coverage_includes_the_bounds() -> None:
    assert coverage(ACTUAL, ACTUAL, ACTUAL + 1) == 1
    assert coverage(ACTUAL, ACTUAL - 1, ACTUAL) == 1


def test_scores_handle_denominators_of_zero() -> None:
    nothing = np.zeros((1, 2))
    assert scaled_crps(nothing, np.zeros((1, 2, 2)), PROBABILITIES) == 0
    assert scaled_crps(nothing, QUANTILES, PROBABILITIES) == np.inf


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_values_match_utilsforecast() -> None:
    from utilsforecast import losses

    random = np.random.default_rng(0)
    actual, quantiles = random.normal(size=(30, 4)), np.sort(random.normal(size=(30, 4, 2)), axis=2)
    frame = pd.DataFrame(
        {
            "unique_id": "a",
            "ds": range(120),
            "y": actual.ravel(),
            "lo": quantiles[..., 0].ravel(),
            "hi": quantiles[..., 1].ravel(),
        }
    )
    theirs = losses.scaled_crps(frame, {"m": ["lo", "hi"]}, PROBABILITIES)["m"].iloc[0]
    assert scaled_crps(actual, quantiles, PROBABILITIES) == pytest.approx(theirs)
    inside = losses.coverage(frame.rename(columns={"lo": "m-lo-80", "hi": "m-hi-80"}), ["m"], 80)["m"].iloc[0]
    assert coverage(actual, quantiles[..., 0], quantiles[..., 1]) == pytest.approx(inside)


@given(arrays(np.float64, (5, 3), elements=st.floats(-10, 10)), st.floats(0.1, 5), st.floats(50, 99))
def test_winkler_is_the_width_plus_the_penalty_for_misses(actual: Floats, spread: float, level: float) -> None:
    assert winkler(actual, actual, actual, level) == 0
    assert winkler(actual, actual - spread, actual + spread, level) == pytest.approx(2 * spread)
    missed = winkler(actual, actual + spread, actual + 2 * spread, level)
    assert missed == pytest.approx(spread + 2 / (1 - level / 100) * spread)
