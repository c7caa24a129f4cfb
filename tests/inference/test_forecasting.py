"""Answers obey what a version chose for its intervals, do not depend on each other, and say on how little they rest."""

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


def predictor(models: TrainedModels, **changes: Any) -> ArrayPredictor:
    found = models.predictor(1)
    found.bundle = replace(found.bundle, calibration=replace(found.bundle.calibration, **changes))
    return found


def without_skill(models: TrainedModels) -> ArrayPredictor:
    found = models.predictor(1)
    skill = found.manifest.skill.model_copy(update={"relative_mae": 1.5})
    found.manifest = found.manifest.model_copy(update={"skill": skill})
    return found


def predict(found: ArrayPredictor, rates: list[Floats | None], level: tuple[float, ...] = (80.0,)) -> Forecast:
    values = np.sin(np.arange(24) / 2)[None, :, None] + np.arange(float(len(rates)))[:, None, None]
    return Forecaster(found, 4, bands(level=level)).predict(ForecastInputs(values, miscoverage_rates=rates))


@pytest.mark.parametrize("is_adaptive", [True, False])
def test_scores_move_the_intervals_of_adaptive_versions_alone(models: TrainedModels, is_adaptive: bool) -> None:
    found = predictor(models, is_adaptive=is_adaptive)
    static, moved = (predict(found, [one]) for one in (None, WIDE))
    assert moved.is_adapted == (is_adaptive,)
    assert np.array_equal(static.band_values, moved.band_values) is not is_adaptive
    np.testing.assert_array_equal(static.mean, moved.mean)


@pytest.mark.parametrize("level", [(80.0,), (80.0, 95.0), (33.0, 70.0, 90.0)])
def test_intervals_that_have_not_adapted_do_not_depend_on_those_that_have(
    models: TrainedModels, level: tuple[float, ...]
) -> None:
    found = predictor(models, is_adaptive=True)
    alone, beside = predict(found, [None, None, None], level), predict(found, [None, WIDE, None], level)
    assert beside.is_adapted == (False, True, False)
    for one, other in ((alone.band_values, beside.band_values), (alone.bounds, beside.bounds)):
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
        assert not np.array_equal(one[1], other[1])


def test_what_is_served_is_what_is_scored(models: TrainedModels) -> None:
    found = predictor(models, is_adaptive=True)
    made = predict(found, [None, WIDE], (80.0, 95.0))
    np.testing.assert_array_equal(made.band_values, made.bounds)
    assert made.columns == ("lo-80", "hi-80", "lo-95", "hi-95")


def test_the_baseline_forecasts_where_no_skill_is_shown_and_the_policy_says_so(models: TrainedModels) -> None:
    values = np.sin(np.arange(24) / 2)[None, :, None]
    for found, policy, by in (
        (models.predictor(1), "baseline", "model"),
        (without_skill(models), "model", "model"),
        (without_skill(models), "baseline", "naive"),
    ):
        made = Forecaster(found, 4, without_skill=policy).predict(ForecastInputs(values, miscoverage_rates=[WIDE]))
        assert made.forecast_by == by
        assert made.is_adapted == (by == "model",)
        assert (made.mean == values[0, -1]).all() == (by == "naive")
    assert "this is the forecast of the naive baseline" in made.warnings[0]


def test_what_no_series_could_be_answered_is_refused_before_any(models: TrainedModels) -> None:
    for horizon, level, said in ((41, 80.0, "horizon: 41 is outside 1 to 40"), (4, 99.9, "outside the calibrated")):
        with pytest.raises(RequestError, match=said):
            Forecaster(models.predictor(1), horizon, bands(level=(level,)))


def test_an_answer_warns_where_its_intervals_rest_on_few_independent_windows(models: TrainedModels) -> None:
    def warnings(n_effective: float) -> str:
        return "\n".join(Forecaster(predictor(models, n_effective=n_effective), 4, bands(level=(80.0,))).warnings)

    expected = "effectively 16 independent ones: an 80 % interval's coverage is known to ± 20 points"
    assert expected in warnings(16.0)
    assert "independent" not in warnings(200.0)
