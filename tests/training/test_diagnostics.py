"""Diagnostics: gradients by lag, hidden units, and the pictures in a training's run."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from forecaster.data.windows import Windows
from forecaster.models.trained import TrainedNetwork, network_inputs, predict_batches
from forecaster.training.config import prepare, split
from forecaster.training.diagnostics import features, gradient_norms, hidden_units, match_units, rows_seen, sample
from forecaster.training.job import train
from forecaster.training.stages import fit_network
from tests.conftest import small_config


def fitted(folder: Path, **changes: Any) -> tuple[TrainedNetwork, Windows]:
    """Return a network that is fitted for an epoch, and its validation windows."""
    config = small_config(folder, **({"fit": {"epochs": 1, "batch_size": 32}} | changes))
    parts = split(config, prepare(config, config.data.load()))
    return fit_network(config, parts, folder)[0], parts["validation"]


def test_gradients_of_a_regression_are_its_weights(tmp_path: Path) -> None:
    trained, validation = fitted(tmp_path, fit={"epochs": 0}, model={"skip": "ridge"})
    weights, _ = trained.model.get_layer("skip").get_weights()
    norms = gradient_norms(trained, sample(validation, 3))
    assert norms.shape == (3, 24)
    np.testing.assert_allclose(norms, np.tile(np.linalg.norm(weights, axis=1), (3, 1)), rtol=1e-3)


def test_rows_seen_counts_back_from_the_last_row() -> None:
    norms = np.zeros((2, 10))
    norms[:, -1], norms[:, -4] = 0.8, 0.2
    assert rows_seen(norms) == 4
    assert rows_seen(norms[:, ::-1]) == 10


def test_the_head_reads_the_hidden_units(tmp_path: Path) -> None:
    """With one head on the last step, the head's weights turn the hidden units into the network's output."""
    model = {"encoder": {"widths": [5, 4], "bidirectional": True, "segment_length": 3}, "members": 2}
    trained, validation = fitted(tmp_path, model=model)
    inputs = sample(validation, 6)
    units = hidden_units(trained, inputs)
    assert units.shape == (6, 8, 8)
    kernel, bias = trained.model.get_layer("member_0_head").get_weights()
    prepared, _ = trained.preprocessing.forward(inputs.feeds)
    outputs = predict_batches(trained.model, network_inputs(prepared))[:, :, 0, 0]
    # the forward half of the last layer ends at the last step, the backward half at the first
    last = np.concatenate([units[:, -1, :4], units[:, 0, 4:]], axis=1)
    np.testing.assert_allclose(last @ kernel + bias, outputs, atol=1e-5)


def test_each_feature_is_matched_with_the_unit_that_follows_it() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(20, 12)).cumsum(axis=1)
    of_windows = features(values, 12)
    outputs = random.normal(size=(20, 12, 4))
    outputs[:, :, 2] = 3 - of_windows["change"]
    outputs[:, :, 1] = of_windows["value"]
    outputs[:, :, 3] = 7.0
    matches = {match.feature: match for match in match_units(of_windows, outputs)}
    assert (matches["change"].unit, matches["value"].unit) == (2, 1)
    np.testing.assert_allclose([matches["change"].correlation, matches["value"].correlation], [-1, 1])
    assert all(np.isfinite(match.correlation) for match in matches.values())
    # of segments, the features are means
    np.testing.assert_allclose(features(values, 4)["value"], values.reshape(20, 4, 3).mean(axis=2))


def test_a_training_logs_its_diagnostics(tmp_path: Path) -> None:
    config = small_config(tmp_path, missing="mask", folds=0, fit={"epochs": 2, "batch_size": 32})
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"diagnostics": True})})
    run_id = train(config).run_id
    client = mlflow.MlflowClient(config.tracking.uri)
    pictures = {"learning-curves.png", "gradient-by-lag.png", "hidden-units.png", "units-by-feature.png"}
    assert pictures <= {file.path for file in client.list_artifacts(run_id)}
    assert 1 <= client.get_run(run_id).data.metrics["validation/rows_seen"] <= config.input_size
