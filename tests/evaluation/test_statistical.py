"""Classical baselines: equal to statsforecast, and independent of the number of processes."""

import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext

import numpy as np
import pytest

from forecaster.domain.errors import DataError
from forecaster.domain.series import Floats
from forecaster.evaluation import statistical
from forecaster.evaluation.statistical import STATISTICAL, forecast_histories


def histories(count: int, length: int = 60) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    season = np.tile([0.0, 5.0, 9.0, 4.0], length)[:length]
    return [20 + season + 0.02 * np.arange(length) + random.normal(0, 0.1, length) for _ in range(count)]


@pytest.mark.parametrize("name", STATISTICAL)
def test_models_extrapolate_season_and_trend(name: str) -> None:
    (mean,) = forecast_histories(name, histories(1), 4, 4)
    np.testing.assert_allclose(mean, np.array([20, 25, 29, 24]) + 0.02 * np.arange(60, 64), atol=0.5)


@pytest.mark.parametrize(
    ("name", "model"), [("auto_ets", "AutoETS"), ("theta", "AutoTheta"), ("auto_arima", "AutoARIMA")]
)
def test_forecasts_match_statsforecast(name: str, model: str) -> None:
    from statsforecast import models

    walk = 50 + np.cumsum(np.random.default_rng(1).normal(size=80))
    theirs = getattr(models, model)(season_length=1).fit(walk).predict(5)["mean"]
    np.testing.assert_allclose(forecast_histories(name, [walk], 5, 1)[0], theirs)


def test_only_the_latest_rows_of_a_long_history_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistical, "MAX_ROWS", 40)
    (past,) = histories(1)
    long, short = (forecast_histories("theta", [history], 3, 4) for history in (past, past[-40:]))
    np.testing.assert_array_equal(long, short)


@pytest.mark.parametrize(
    ("name", "history"), [("theta", [3.0] * 50), ("auto_ets", [1.0, 5.0, 2.0, 7.0, 1.0, 6.0, 2.0])]
)
def test_divisions_by_zero_in_candidate_models_are_ignored(name: str, history: list[float]) -> None:
    assert np.isfinite(forecast_histories(name, [np.array(history)], 3, 4)).all()


def test_many_processes_give_the_same_forecasts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    class Watched(ProcessPoolExecutor):
        def __init__(self, n_processes: int, mp_context: BaseContext) -> None:
            used.append((n_processes, mp_context.get_start_method()))
            super().__init__(n_processes, mp_context)

    monkeypatch.setattr(statistical, "ProcessPoolExecutor", Watched)
    past = histories(240, 30)
    together = forecast_histories("auto_ets", past, 3, 1, n_processes=2)
    np.testing.assert_array_equal(together, forecast_histories("auto_ets", past, 3, 1, n_processes=1))
    assert used == [(2, "spawn")]
    assert together.shape == (240, 3)
    # the forecasts keep the order of the histories
    alone = forecast_histories("auto_ets", past[100:101], 3, 1)
    np.testing.assert_array_equal(together[100], alone[0])


def test_error_names_the_window_that_cannot_be_fitted() -> None:
    with pytest.raises(DataError, match=r"baseline auto_ets: window 1 cannot be fitted \("):
        forecast_histories("auto_ets", [*histories(1), np.array([np.nan] * 20)], 3, 1)


@pytest.mark.parametrize("mean", [[np.nan, 1.0, 1.0], [1.0, 1.0, np.inf]])
def test_forecast_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch, mean: list[float]) -> None:
    monkeypatch.setattr("statsforecast.models.AutoETS.forecast", lambda self, y, h: {"mean": np.array(mean)})
    with pytest.raises(DataError, match=r"window 0 cannot be fitted \(its forecast is not finite\)"):
        forecast_histories("auto_ets", histories(1), 3, 1)


def test_other_warnings_become_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def forecast(self: object, y: Floats, h: int) -> dict[str, Floats]:
        warnings.warn("of ours", RuntimeWarning, stacklevel=1)
        return {"mean": np.zeros(h)}

    monkeypatch.setattr("statsforecast.models.AutoETS.forecast", forecast)
    with pytest.raises(DataError, match=r"RuntimeWarning: of ours"):
        forecast_histories("auto_ets", histories(1), 3, 1)
