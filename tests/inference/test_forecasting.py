"""The forecast function: adaptive intervals, independence of series, the baseline, and warnings."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Floats
from forecaster.inference.forecasting import Forecast, Forecaster, ForecastInputs
from forecaster.registry.bands import bands
from forecaster.registry.predictor import ArrayPredictor
from tests.conftest import TrainedModels

WIDE = np.full((4, 2), 0.01)


def load(models: TrainedModels, **changes: Any) -> ArrayPredictor:
    """Return a predictor with some fields of its calibration changed."""
    predictor = models.predictor(1)
    predictor.bundle = replace(predictor.bundle, calibration=replace(predictor.bundle.calibration, **changes))
    return predictor


def load_without_skill(models: TrainedModels) -> ArrayPredictor:
    predictor = models.predictor(1)
    skill = predictor.manifest.skill.model_copy(update={"relative_mae": 1.5})
    predictor.manifest = predictor.manifest.model_copy(update={"skill": skill})
    return predictor


def predict(predictor: ArrayPredictor, rates: list[Floats | None], level: tuple[float, ...] = (80.0,)) -> Forecast:
    """Return forecasts of as many series as there are miscoverage rates."""
    values = np.sin(np.arange(24) / 2)[None, :, None] + np.arange(float(len(rates)))[:, None, None]
    return Forecaster(predictor, 4, bands(level=level)).predict(ForecastInputs(values, miscoverage_rates=rates))


@pytest.mark.parametrize("is_adaptive", [True, False])
def test_scores_adapt_the_intervals_of_adaptive_versions_only(models: TrainedModels, is_adaptive: bool) -> None:
    predictor = load(models, is_adaptive=is_adaptive)
    static, adapted = (predict(predictor, [rates]) for rates in (None, WIDE))
    assert adapted.is_adapted == (is_adaptive,)
    assert np.array_equal(static.band_values, adapted.band_values) is not is_adaptive
    np.testing.assert_array_equal(static.mean, adapted.mean)


@pytest.mark.parametrize("level", [(80.0,), (80.0, 95.0), (33.0, 70.0, 90.0)])
def test_intervals_without_scores_do_not_depend_on_adapted_intervals(
    models: TrainedModels, level: tuple[float, ...]
) -> None:
    predictor = load(models, is_adaptive=True)
    static, mixed = predict(predictor, [None, None, None], level), predict(predictor, [None, WIDE, None], level)
    assert mixed.is_adapted == (False, True, False)
    for before, after in ((static.band_values, mixed.band_values), (static.bounds, mixed.bounds)):
        np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
        assert not np.array_equal(before[1], after[1])


def test_served_intervals_equal_the_scored_intervals(models: TrainedModels) -> None:
    forecast = predict(load(models, is_adaptive=True), [None, WIDE], (80.0, 95.0))
    np.testing.assert_array_equal(forecast.band_values, forecast.bounds)
    assert forecast.columns == ("lo-80", "hi-80", "lo-95", "hi-95")


def test_baseline_forecasts_for_a_model_without_skill_if_the_setting_says_so(models: TrainedModels) -> None:
    values = np.sin(np.arange(24) / 2)[None, :, None]
    for predictor, setting, forecast_by in (
        (models.predictor(1), "baseline", "model"),
        (load_without_skill(models), "model", "model"),
        (load_without_skill(models), "baseline", "naive"),
    ):
        inputs = ForecastInputs(values, miscoverage_rates=[WIDE])
        forecast = Forecaster(predictor, 4, without_skill=setting).predict(inputs)
        assert forecast.forecast_by == forecast_by
        assert forecast.is_adapted == (forecast_by == "model",)
        assert (forecast.mean == values[0, -1]).all() == (forecast_by == "naive")
    assert "this is the forecast of the naive baseline" in forecast.warnings[0]


def test_unsupported_horizon_and_level_are_refused(models: TrainedModels) -> None:
    for horizon, level, message in ((41, 80.0, "horizon: 41 is outside 1 to 40"), (4, 99.9, "outside the calibrated")):
        with pytest.raises(RequestError, match=message):
            Forecaster(models.predictor(1), horizon, bands(level=(level,)))


def test_few_independent_windows_cause_a_warning(models: TrainedModels) -> None:
    def warnings(n_effective: float) -> str:
        return "\n".join(Forecaster(load(models, n_effective=n_effective), 4, bands(level=(80.0,))).warnings)

    expected = "effectively 16 independent ones: an 80 % interval's coverage is known to ± 20 points"
    assert expected in warnings(16.0)
    assert "independent" not in warnings(200.0)
