"""Combinations of a network's parts: fitted, saved, exported, loaded and served over HTTP with the same forecasts."""

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
from forecaster.training.networks import compile_network
from service.app import create_app
from service.settings import Settings
from tests.models.combinations import INPUT_SIZE, Combination, cover, manifest_fields, trained_network
from tests.models.test_combinations import IS_COMPLETE, TOLERANCE
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
    model = compile_network(trained.model, trained.config.head, FitConfig(), 1)
    before = [weight.copy() for weight in model.get_weights()]
    actual = np.zeros((len(inputs), *model.output_shape[1:-1]), np.float32)
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
    # every pair of parts in `make conformance`, else every part
    combinations = cover(2 if IS_COMPLETE else 1)
    return [_write(combination, cache, f"m{number}") for number, combination in enumerate(combinations)]


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


def _series(case: Served) -> list[dict[str, Any]]:
    manifest, inputs = read_bundle(case.folder).manifest, case.inputs
    times = [f"2026-01-01T{hour:02}:00:00" for hour in range(INPUT_SIZE)]
    known = np.empty((len(inputs), 0, 0)) if inputs.known is None else inputs.known
    return [
        {
            "unique_id": f"s{row}",
            "ds": times,
            "y": inputs.target[row].tolist(),
            "hist_exog": dict(zip(manifest.hist_exog, inputs.values[row, :, 1:].T.tolist(), strict=True)),
            "futr_exog": dict(zip(manifest.futr_exog, known[row].T.tolist(), strict=True)),
        }
        for row in range(len(inputs))
    ]


def test_http_gives_the_networks_forecasts_and_intervals(served: list[Served], client: TestClient) -> None:
    # a request cannot describe a series as a whole
    cases = [case for case in served if case.inputs.static is None]
    assert {case.combination.config.head for case in cases} == {case.combination.config.head for case in served}
    for case in cases:
        body = {"model": case.name, "series": _series(case), "level": [LEVEL]}
        answer = client.post("/v1/forecasts", json=body)
        assert answer.status_code == 200, answer.text
        forecasts = answer.json()["forecasts"]
        mean, lower, upper = (np.array([f[name] for f in forecasts]) for name in ("mean", "lo-80", "hi-80"))
        expected, horizon = case.expected, case.combination.shape.horizon
        bounds = _calibration(horizon).bands(case.inputs.target, [LEVEL], expected.offsets)[LEVEL]
        scale = window_scale(case.inputs.target, expected.mean)
        for found, wanted in ((mean, 0), (lower, bounds[0]), (upper, bounds[1])):
            difference = np.abs(found - expected.mean - wanted) / (scale + np.abs(wanted))
            assert difference.max() < TOLERANCE, str(case.combination)
