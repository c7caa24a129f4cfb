"""Metrics agree with values computed by hand and with utilsforecast, and handle denominators of 0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.metrics import (
    METRICS,
    bias,
    by_series,
    by_step,
    mae,
    mase,
    naive_scale,
    relative_mae,
    rmse,
    rmsse,
    smape,
    squared_naive_scale,
)
from forecaster.evaluation.probabilistic import coverage, pinball

ACTUAL = np.array([[1.0, 2.0], [3.0, 5.0]])
PREDICTED = np.array([[1.0, 4.0], [2.0, 5.0]])


def test_metrics_match_values_computed_by_hand() -> None:
    # errors 0, 2, 1, 0
    assert mae(ACTUAL, PREDICTED) == 3 / 4
    assert rmse(ACTUAL, PREDICTED) == pytest.approx(np.sqrt(5 / 4))
    # 0, 2/6, 1/5 and 0, times 200, divided by 4
    assert smape(ACTUAL, PREDICTED) == pytest.approx(200 * (2 / 6 + 1 / 5) / 4)
    assert mase(ACTUAL, PREDICTED, scale=0.5) == 1.5
    # the baseline's errors are 0, 1, 1, 3
    assert relative_mae(ACTUAL, PREDICTED, np.array([[1.0, 1.0], [2.0, 2.0]])) == pytest.approx(3 / 5)


def test_metrics_registry_maps_names_to_metrics() -> None:
    found = {name: metric(ACTUAL, PREDICTED) for name, metric in METRICS.items()}
    expected = {"mae": 3 / 4, "rmse": np.sqrt(5 / 4), "smape": 50 * (2 / 6 + 1 / 5), "bias": (2 - 1) / 4}
    assert found == pytest.approx(expected)


def test_smape_of_opposite_signs_is_200() -> None:
    assert smape(np.array([[1.0, 2.0]]), np.array([[-1.0, -6.0]])) == 200


@given(size=st.floats(1e-3, 1e6), seed=st.integers(0, 2**31))
def test_errors_scale_with_the_unit_and_scaled_errors_do_not(size: float, seed: int) -> None:
    actual, predicted, history = np.random.default_rng(seed).normal(size=(3, 4, 5))
    for metric in (mae, rmse, bias):
        assert metric(size * actual, size * predicted) == pytest.approx(size * metric(actual, predicted))
    assert smape(size * actual, size * predicted) == pytest.approx(smape(actual, predicted))
    for scaled, scale in ((mase, naive_scale), (rmsse, squared_naive_scale)):
        of_unit = scaled(size * actual, size * predicted, scale(size * history[0]))
        assert of_unit == pytest.approx(scaled(actual, predicted, scale(history[0])))


def test_scores_handle_denominators_of_zero() -> None:
    zeros = np.zeros((1, 2))
    assert smape(zeros, zeros) == 0
    assert smape(zeros, zeros + 1) == 200
    assert relative_mae(zeros, zeros, zeros) == 1
    assert relative_mae(zeros, zeros + 1, zeros) == np.inf
    assert mase(zeros, zeros + 1, 0) == np.inf


def test_last_value_repeats_the_last_input() -> None:
    np.testing.assert_array_equal(last_value(np.array([[1.0, 2.0], [4.0, 3.0]]), 3), [[2, 2, 2], [3, 3, 3]])


def test_scaled_errors_use_the_scale_of_each_row() -> None:
    actual, predicted = np.array([[1.0, 2.0], [100.0, 200.0]]), np.array([[2.0, 2.0], [200.0, 200.0]])
    scale = np.array([[1.0], [100.0]])
    assert mase(actual, predicted, scale) == pytest.approx(0.5)
    assert rmsse(actual, predicted, scale**2) == pytest.approx(np.sqrt(0.5))
    # with as many rows as steps, a scale (n,) still belongs to a row
    assert mase(actual, predicted, scale[:, 0]) == pytest.approx(0.5)
    assert rmsse(actual, predicted, scale[:, 0] ** 2) == pytest.approx(np.sqrt(0.5))
    assert naive_scale(np.array([1.0, 3.0, 2.0, 6.0])) == pytest.approx((2 + 1 + 4) / 3)
    assert naive_scale(np.array([1.0, 3.0, 2.0, 6.0]), 2) == pytest.approx((1 + 3) / 2)
    assert squared_naive_scale(np.array([1.0, 3.0, 2.0, 6.0])) == pytest.approx((4 + 1 + 16) / 3)
    assert squared_naive_scale(np.array([1.0, 3.0, 2.0, 6.0]), 2) == pytest.approx((1 + 9) / 2)
    # the scale of a constant series is 0
    assert mase(actual, actual, np.zeros((2, 1))) == 0
    assert mase(actual, predicted, np.zeros((2, 1))) == np.inf
    assert rmsse(actual, actual, np.zeros((2, 1))) == 0
    assert rmsse(actual, predicted, np.zeros((2, 1))) == np.inf


def test_rmsse_averages_over_series() -> None:
    # squared errors of a: 1, 9, 1, 9; of b: 16, 16
    actual = np.array([[1.0, 3.0], [4.0, 0.0], [1.0, 3.0]])
    predicted = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    owners, squared_scale = np.array([0, 7, 0]), np.array([5.0, 4.0, 5.0])
    assert rmsse(actual, predicted, squared_scale, owners) == pytest.approx((np.sqrt(5 / 5) + np.sqrt(16 / 4)) / 2)
    # without owners all rows belong to one series
    assert rmsse(actual, predicted, squared_scale) == pytest.approx(np.sqrt((1 + 4 + 1) / 3))


def test_by_step_and_by_series_apply_the_metric_to_each_part() -> None:
    actual, predicted = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[1.0, 4.0], [3.0, 4.0], [9.0, 6.0]])
    assert by_step(mae, actual, predicted) == pytest.approx([4 / 3, 2 / 3])
    assert by_series(mae, actual, predicted, np.array([0, 0, 2]), ["a", "b", "c"]) == {"a": 0.5, "c": 2.0}
    assert by_series(mae, actual, predicted, np.array([2, 0, 2]), ["a", "b", "c"]) == {"a": 0.0, "c": 1.5}
    assert bias(actual, predicted) == pytest.approx(1.0)


def test_by_step_supports_intervals_and_quantiles() -> None:
    actual, low, high = np.array([[1.0, 5.0], [2.0, 5.0]]), np.zeros((2, 2)), np.array([[1.5, 6.0], [1.5, 6.0]])
    assert by_step(coverage, actual, low, high) == [0.5, 1.0]
    median = np.array([[[3.0], [5.0]], [[2.0], [7.0]]])
    # half of the absolute errors 2, 0 and 0, 2, averaged
    half = by_step(lambda own, quantiles: pinball(own, quantiles, np.array([0.5])), actual, median)
    assert half == pytest.approx([0.5, 0.5])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_values_match_utilsforecast() -> None:
    import pandas as pd
    from utilsforecast import losses

    random = np.random.default_rng(0)
    train, actual, predicted = random.normal(size=50), random.normal(size=(1, 12)), random.normal(size=(1, 12))
    frame = pd.DataFrame({"unique_id": "a", "ds": range(12), "y": actual[0], "m": predicted[0]})
    past = pd.DataFrame({"unique_id": "a", "ds": range(-50, 0), "y": train})
    ours = {
        "mae": mae(actual, predicted),
        "rmse": rmse(actual, predicted),
        "bias": bias(actual, predicted),
        "mase": mase(actual, predicted, naive_scale(train, 3)),
        "rmsse": rmsse(actual, predicted, squared_naive_scale(train, 3)),
    }
    theirs = {name: getattr(losses, name)(frame, ["m"])["m"].iloc[0] for name in ("mae", "rmse", "bias")}
    theirs |= {name: getattr(losses, name)(frame, ["m"], 3, past)["m"].iloc[0] for name in ("mase", "rmsse")}
    assert ours == pytest.approx(theirs)
    # two series: the mean of their RMSSEs
    many, both = (
        pd.concat([frame, frame.assign(unique_id="b", m=3 * frame["m"])]),
        pd.concat([past, past.assign(unique_id="b", y=past["y"] ** 2)]),
    )
    scales = [squared_naive_scale(train, 3), squared_naive_scale(train**2, 3)]
    pair = np.concatenate([predicted, 3 * predicted])
    mine = rmsse(np.concatenate([actual, actual]), pair, np.array(scales), np.array([0, 1]))
    assert mine == pytest.approx(losses.rmsse(many, ["m"], 3, both)["m"].mean())
