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


def paths(
    predictor: ArrayPredictor, names: list[str], rates: list[Floats | None], **options: Any
) -> tuple[Forecast, Floats]:
    """Return forecasts with quantiles and 1000 sample paths, and the paths' own quantiles, `(n, horizon, 3)`."""
    values = np.sin(np.arange(24) / 2)[None, :, None] + np.arange(float(len(names)))[:, None, None]
    forecaster = Forecaster(predictor, 4, bands(quantiles=(0.1, 0.5, 0.9)), n_samples=1000, **options)
    forecast = forecaster.predict(ForecastInputs(values, unique_ids=names, miscoverage_rates=rates))
    assert forecast.samples is not None
    own = np.asarray(np.quantile(forecast.samples, np.array([0.1, 0.5, 0.9]), axis=1, method="hazen"))
    return forecast, np.moveaxis(own, 0, -1)


@pytest.mark.parametrize("setting", ["model", "baseline"])
def test_sample_paths_have_the_served_quantiles(models: TrainedModels, setting: str) -> None:
    predictor = load_without_skill(models)
    # one series with intervals that its actuals have widened, except in forecasts of the baseline
    forecast, own = paths(predictor, ["a", "b"], [None, WIDE], without_skill=setting)
    assert forecast.is_adapted == (False, setting == "model")
    width = np.ptp(forecast.band_values, axis=2)
    assert (np.abs(own - forecast.band_values).max(axis=2) < 0.01 * width).all()


def test_sample_paths_do_not_depend_on_the_other_series(models: TrainedModels) -> None:
    predictor = models.predictor(1)
    together, alone = (paths(predictor, names, [])[0].samples for names in (["a", "b"], ["a"]))
    assert together is not None and alone is not None
    np.testing.assert_array_equal(together[0], alone[0])
    # the paths of different series are independent
    ranks = np.argsort(np.argsort(together[:, :, 0], axis=1), axis=1)
    assert abs(np.asarray(np.corrcoef(ranks))[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"horizon": 5}, "n_samples: the trained horizon is 4, and steps beyond it have no intervals"),
        ({}, {"n_samples": 0}, "n_samples: 0 is outside 1 to 1000"),
        ({}, {"n_samples": 1001}, "n_samples: 1001 is outside 1 to 1000"),
        ({}, {"seed": -1}, "seed: must be at least 0, got -1"),
        ({"templates": None}, {}, "n_samples: this version was trained by an earlier release"),
        (
            {"probabilities": np.array([0.2, 0.5, 0.8]), "residuals": np.zeros((4, 3))},
            {},
            "n_samples: sample paths need calibrated 80 % intervals",
        ),
    ],
)
def test_sample_paths_that_cannot_be_drawn_are_refused(
    models: TrainedModels, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        Forecaster(load(models, **changes), **({"horizon": 4, "n_samples": 10} | options))


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
