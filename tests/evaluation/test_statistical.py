"""Classical baselines: the same alone and in many processes, and good at what they are made for."""

import numpy as np
import pytest

from forecaster.domain.errors import DataError
from forecaster.evaluation.statistical import STATISTICAL, forecast_histories


def histories(count: int, length: int = 60) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    season = np.tile([0.0, 5.0, 9.0, 4.0], length)[:length]
    return [20 + season + 0.02 * np.arange(length) + random.normal(0, 0.1, length) for _ in range(count)]


@pytest.mark.parametrize("name", STATISTICAL)
def test_a_season_and_a_trend_are_carried_on(name: str) -> None:
    (mean,) = forecast_histories(name, histories(1), 4, 4)
    np.testing.assert_allclose(mean, np.array([20, 25, 29, 24]) + 0.02 * np.arange(60, 64), atol=0.5)


def test_many_processes_answer_as_one_does() -> None:
    past = histories(240, 30)
    together = forecast_histories("auto_ets", past, 3, 1, n_processes=2)
    np.testing.assert_array_equal(together, forecast_histories("auto_ets", past, 3, 1, n_processes=1))
    assert together.shape == (240, 3)
    # each window has its own history's forecast
    alone = forecast_histories("auto_ets", past[100:101], 3, 1)
    np.testing.assert_array_equal(together[100], alone[0])


def test_a_window_that_cannot_be_fitted_is_named() -> None:
    with pytest.raises(DataError, match=r"baseline auto_ets: window 1 cannot be fitted \("):
        forecast_histories("auto_ets", [*histories(1), np.array([np.nan] * 20)], 3, 1)
