"""Skill in answers, and the setting that serves the baseline instead of a model without skill."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecaster.domain.manifest import Skill
from forecaster.evaluation.forecasts import Forecasts
from forecaster.inference.predictor import load_predictor
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.store import Store
from forecaster.training.job import train
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, small_config
from tests.service.conftest import forecast_request, wait_until_ready

DAYS = pd.bdate_range("2026-01-01", periods=24)
PRICES = np.linspace(90, 110, 24) + np.sin(np.arange(24))


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ArrayPredictor:
    """Return a predictor of a random walk, which shows no skill."""
    folder = tmp_path_factory.mktemp("walk")
    changes = {
        "name": "walk",
        "data": {"source": "random_walk", "length": 800, "seed": 5},
        "transforms": [{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        "intervals": "ewma",
        "fit": {"epochs": 2},
    }
    registered = train(small_config(folder, **changes))
    uri = f"sqlite:///{folder}/mlflow.db"
    Store(uri).promote("walk", registered.version)
    return load_predictor("walk", tracking_uri=uri, cache=folder / "cache")


@contextmanager
def serving(cache: Path, **settings: Any) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri="", **settings))) as client:
        wait_until_ready(client)
        yield client


def answer_of(client: TestClient, **changes: Any) -> dict[str, Any]:
    series = {"unique_id": "w", "ds": DAYS.strftime("%Y-%m-%d").tolist(), "y": PRICES.tolist()}
    request = {"model": "walk", "series": [series], "level": [80]} | changes
    answer: dict[str, Any] = client.post("/v1/forecasts", json=request).json()
    return answer


def test_answer_contains_skill(client: TestClient, models: TrainedModels) -> None:
    answer = client.post("/v1/forecasts", json=forecast_request()).json()
    skill = answer["skill"]
    assert answer["forecast_by"] == "model"
    assert skill["p_value"] < 0.001
    assert skill["coverage"]["80"] == models.versions[0].metrics["coverage-80"]
    # the last fifth of 800 hours, without the inputs of the first window
    assert (skill["first"], skill["last"]) == ("2020-01-28T16:00:00.000000000", "2020-02-03T07:00:00.000000000")
    assert (skill["n_windows"], skill["n_effective"], skill["is_shown"]) == (133, 33, True)


def test_model_without_skill_is_served_with_a_warning(walk: ArrayPredictor) -> None:
    assert not walk.manifest.skill.is_shown
    with serving(walk.bundle.folder.parents[1]) as client:
        answer = answer_of(client)
    (forecast,) = answer["forecasts"]
    assert answer["forecast_by"] == "model"
    assert forecast["mean"] == walk.predict_arrays(PRICES[None])[0].tolist()
    assert [text for text in answer["warnings"] if text.startswith("no demonstrated skill")]


def test_without_skill_setting_serves_the_baseline(walk: ArrayPredictor) -> None:
    with serving(walk.bundle.folder.parents[1], without_skill="baseline") as client:
        answer = answer_of(client)
        longer = answer_of(client, horizon=6)
    (forecast,) = answer["forecasts"]
    assert answer["forecast_by"] == "naive"
    assert forecast["mean"] == [PRICES[-1]] * 4
    assert any("this is the forecast of the naive baseline" in text for text in answer["warnings"])
    assert walk.bundle.baseline is not None
    low, high = walk.bundle.baseline.bands(PRICES[None], [80], Forecasts(np.full((1, 4), PRICES[-1])))[80]
    np.testing.assert_allclose(forecast["lo-80"], low[0])
    np.testing.assert_allclose(forecast["hi-80"], high[0])
    # intervals widen with the step
    widths = np.array(forecast["hi-80"]) - np.array(forecast["lo-80"])
    assert widths[-1] > widths[0]
    assert longer["forecasts"][0]["mean"] == [PRICES[-1]] * 6
    assert longer["forecasts"][0]["lo-80"][4:] == [None, None]


def test_without_skill_setting_keeps_a_model_with_skill(models: TrainedModels) -> None:
    with serving(models.cache, without_skill="baseline") as client:
        assert client.post("/v1/forecasts", json=forecast_request()).json()["forecast_by"] == "model"


@pytest.mark.parametrize(
    ("relative_mae", "p_value", "n_effective", "is_shown"),
    [
        (0.9, 0.01, 30, True),
        (0.9, 0.01, 29, False),
        (0.9, 0.2, 90, False),
        (1.0, 0.01, 90, False),
        (None, None, 90, False),
        (0.9, None, 90, False),
    ],
)
def test_skill_requires_a_significantly_smaller_error(
    relative_mae: float | None, p_value: float | None, n_effective: int, is_shown: bool
) -> None:
    skill = Skill(baseline="naive", relative_mae=relative_mae, n_windows=500, n_effective=n_effective, p_value=p_value)
    assert skill.is_shown == is_shown
