"""The example of a bundle: held-out rows of the training data, forecast by a network that had not seen them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.domain.manifest import Example
from forecaster.domain.series import MEAN, Series, lower, upper
from forecaster.registry.bundle import read_bundle
from forecaster.registry.predictor import ArrayPredictor
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.job import train
from tests.conftest import TrainedModels, small_config


def data_of(config: TrainConfig) -> Series:
    return prepare(config, config.data.load(config.exogenous))


def example_of(predictor: ArrayPredictor) -> Example:
    found = predictor.manifest.example
    assert found is not None
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_example_is_the_last_window_of_the_test_part(models: TrainedModels, version: int) -> None:
    example, series = example_of(models.predictor(version)), data_of(models.config)
    np.testing.assert_array_equal(example.y, series.values[-28:, 0])
    np.testing.assert_array_equal(np.array(example.ds, dtype="M8[ns]"), series.timestamps[-28:])
    assert example.unique_id == series.unique_ids[0]


def test_example_is_forecast_well_by_weights_that_had_not_seen_it(models: TrainedModels) -> None:
    predictor = models.predictor(1)
    example = example_of(predictor)
    mean, actual = np.array(example.forecast[MEAN]), np.array(example.y[24:])
    # the skill must be visible in a chart
    assert np.abs(mean - actual).mean() < np.abs(example.y[23] - actual).mean()
    served = predictor.predict_arrays(np.array([example.y[:24]]))[0]
    assert np.abs(mean - served).max() > 1e-3
    for level in (80, 95):
        low, high = np.array(example.forecast[lower(level)]), np.array(example.forecast[upper(level)])
        assert (low < mean).all()
        assert (mean < high).all()


def test_example_has_the_columns_that_a_request_needs(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    days = np.datetime64("2023-01-02") + np.arange(500)
    visits, promotion = random.normal(50, 10, (2, 500)).round(3), (random.uniform(size=(2, 500)) < 0.3).astype(int)
    rows = [
        f"{shop},{day},{y:.3f},{visit},{is_on}"
        for shop, number in (("north", 0), ("south", 1))
        for day, y, visit, is_on in zip(
            days, visits[number] + 9 * promotion[number], visits[number], promotion[number], strict=True
        )
    ]
    (tmp_path / "sales.csv").write_text("\n".join(["unique_id,ds,y,visits,promotion", *rows]) + "\n")
    changes: dict[str, Any] = {
        "name": "sales",
        "data": {"source": "files", "path": str(tmp_path / "sales.csv")},
        "hist_exog": ["visits"],
        "futr_exog": ["promotion"],
        "calendar_features": ["day_of_week"],
        "fit": {"epochs": 1},
    }
    registered = train(small_config(tmp_path, **changes))
    folder = tmp_path / "artifacts" / registered.run_id / "artifacts" / "model"
    example = read_bundle(folder).manifest.example
    assert example is not None
    assert (example.unique_id, example.ds[0], example.ds[-1]) == (
        "south",
        f"{days[-28]}T00:00:00",
        f"{days[-1]}T00:00:00",
    )
    assert example.hist_exog == {"visits": tuple(visits[1, -28:-4])}
    assert example.futr_exog == {"promotion": tuple(promotion[1, -28:])}
