"""Each part of a network, in some combination: fitted, saved, exported, loaded and served with the same forecasts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from forecaster.domain.manifest import KERAS_MODEL
from forecaster.domain.series import Inputs
from forecaster.evaluation.conformal import PROBABILITIES, Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.trained import TrainedNetwork, network_inputs, predict_batches
from forecaster.registry.bundle import largest_difference, read_bundle, window_scale
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, write_index
from forecaster.registry.predictor import ArrayPredictor
from forecaster.training.export import write_bundle
from forecaster.training.fit_config import FitConfig
from forecaster.training.networks import Batches, compile_network
from service.app import create_app
from service.settings import Settings
from tests.models.combinations import (
    INPUT_SIZE,
    Combination,
    cover,
    manifest_fields,
    static_columns,
    target_shape,
    trained_network,
)
from tests.models.test_combinations import TOLERANCE
from tests.models.tracing import fast_traces
from tests.service.conftest import wait_until_ready

LEVEL = 80


@dataclass(frozen=True)
class Served:
    """A combination in the service's cache: its network, the inputs, and the forecasts by Keras."""

    combination: Combination
    name: str
    folder: Path
    trained: TrainedNetwork
    inputs: Inputs
    expected: Forecasts


def _calibration(horizon: int) -> Calibration:
    probabilities = np.array(PROBABILITIES[2:-2])
    return Calibration(probabilities, np.tile(probabilities - 0.5, (horizon, 1)), 100, 100.0, is_adaptive=False)


def _fit_one_batch(trained: TrainedNetwork, inputs: Inputs) -> None:
    """Train as a fit does, and check that the loss is finite and the weights change."""
    prepared, _ = trained.preprocessing.forward(inputs.feeds)
    is_masked = trained.preprocessing.is_masked
    model = compile_network(trained.model, trained.config, FitConfig(), Batches(len(inputs), 1), is_masked)
    before = [weight.copy() for weight in model.get_weights()]
    actual = np.zeros((len(inputs), *target_shape(trained)), np.float32)
    assert np.isfinite(model.train_on_batch(network_inputs(prepared), actual))
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def _write(combination: Combination, cache: Path, name: str) -> Served:
    trained, inputs = trained_network(combination, np.random.default_rng(5))
    _fit_one_batch(trained, inputs)
    folder = bundle_folder(cache, name, 1)
    folder.parent.mkdir(parents=True)
    calibrations = dict.fromkeys(("model", "naive"), _calibration(combination.shape.horizon))
    with fast_traces():
        write_bundle(trained, calibrations, manifest_fields(name, trained), inputs, folder)
    write_index(cache, name, ModelIndex({CHAMPION: 1}, {1: "run"}))
    return Served(combination, name, folder, trained, inputs, trained.predict(inputs))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> list[Served]:
    cache = tmp_path_factory.mktemp("cache")
    return [_write(combination, cache, f"m{number}") for number, combination in enumerate(cover(1))]


@pytest.fixture(scope="module")
def client(served: list[Served]) -> Iterator[TestClient]:
    settings = Settings(cache_dir=served[0].folder.parents[1], tracking_uri="")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        yield client


def test_bundle_gives_the_networks_forecasts(served: list[Served]) -> None:
    for case in served:
        predictor, inputs = ArrayPredictor(read_bundle(case.folder)), case.inputs
        found = predictor.predict(inputs.values, known=inputs.known, static=inputs.static)
        assert largest_difference(inputs, found, case.expected) < TOLERANCE, str(case.combination)


def test_saved_network_gives_the_same_outputs(served: list[Served]) -> None:
    import keras

    for case in served:
        prepared = network_inputs(case.trained.preprocessing.forward(case.inputs.feeds)[0])
        loaded = keras.saving.load_model(case.folder / KERAS_MODEL, compile=False)
        expected = predict_batches(case.trained.model, prepared)
        np.testing.assert_array_equal(predict_batches(loaded, prepared), expected, str(case.combination))


def _request(case: Served, row: int) -> dict[str, Any]:
    """Return the request for the forecast of a window; names that the model does not know stand for position 0."""
    shape, inputs = case.combination.shape, case.inputs
    manifest = read_bundle(case.folder).manifest
    target, *hist_exog = [
        [None if np.isnan(value) else value for value in column] for column in inputs.values[row].T.tolist()
    ]
    hist = dict(zip(manifest.hist_exog, hist_exog, strict=True))
    futr = {} if inputs.known is None else dict(zip(manifest.futr_exog, inputs.known[row].T.tolist(), strict=True))
    given = {} if inputs.static is None else static_columns(shape).decode(inputs.static[row].tolist())
    stat = {name: "unknown" if value is None else value for name, value in given.items()}
    series = {
        "unique_id": stat.pop("unique_id", "unknown"),
        "ds": [f"2026-01-01T{hour:02}:00:00" for hour in range(INPUT_SIZE)],
        "y": target,
        "hist_exog": hist,
        "futr_exog": futr,
        "stat_exog": stat,
    }
    return {"model": case.name, "series": [series], "level": [LEVEL]}


def test_http_gives_the_networks_forecasts_and_intervals(served: list[Served], client: TestClient) -> None:
    for case in served:
        answers = [client.post("/v1/forecasts", json=_request(case, row)) for row in range(len(case.inputs))]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        forecasts = [answer.json()["forecasts"][0] for answer in answers]
        mean, lower, upper = (np.array([f[name] for f in forecasts]) for name in ("mean", "lo-80", "hi-80"))
        expected, horizon = case.expected, case.combination.shape.horizon
        bounds = _calibration(horizon).bands(case.inputs.target, [LEVEL], expected)[LEVEL]
        scale = window_scale(case.inputs.target, expected.mean)
        for found, wanted in ((mean, expected.mean), (lower, bounds[0]), (upper, bounds[1])):
            difference = np.abs(found - wanted) / (scale + np.abs(wanted - expected.mean))
            assert difference.max() < TOLERANCE, str(case.combination)
