"""Metrics agree with values worked by hand; their zero denominators are defined."""

import numpy as np
import pytest

from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.metrics import mae, mase, relative_mae, rmse, smape

ACTUAL = np.array([[1.0, 2.0], [3.0, 5.0]])
PREDICTED = np.array([[1.0, 4.0], [2.0, 5.0]])


def test_errors_worked_by_hand() -> None:
    # errors 0, 2, 1, 0
    assert mae(ACTUAL, PREDICTED) == 3 / 4
    assert rmse(ACTUAL, PREDICTED) == pytest.approx(np.sqrt(5 / 4))
    # 0, 2/6, 1/5, 0 times 200 over 4
    assert smape(ACTUAL, PREDICTED) == pytest.approx(200 * (2 / 6 + 1 / 5) / 4)
    assert mase(ACTUAL, PREDICTED, scale=0.5) == 1.5
    # the baseline misses by 0, 1, 1, 3
    assert relative_mae(ACTUAL, PREDICTED, np.array([[1.0, 1.0], [2.0, 2.0]])) == pytest.approx(3 / 5)


def test_zero_denominators_are_defined() -> None:
    zeros = np.zeros((1, 2))
    assert smape(zeros, zeros) == 0
    assert smape(zeros, zeros + 1) == 200
    assert relative_mae(zeros, zeros, zeros) == 1
    assert relative_mae(zeros, zeros + 1, zeros) == np.inf
    assert mase(zeros, zeros + 1, 0) == np.inf


def test_the_last_value_is_carried_on() -> None:
    np.testing.assert_array_equal(last_value(np.array([[1.0, 2.0], [4.0, 3.0]]), 3), [[2, 2, 2], [3, 3, 3]])
