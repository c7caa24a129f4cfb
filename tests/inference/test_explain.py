"""`explain=True`: gradients of the served graph, compared with those of TensorFlow."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import Chain, MeanStd, Standardize
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.gradients import gradients
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import TrainedNetwork
from tests.client.conftest import frame
from tests.conftest import TrainedModels

INPUT_SIZE, HORIZON = 16, 3


def trained(cell: str, random: np.random.Generator) -> tuple[TrainedNetwork, Inputs]:
    """Return a network of a target and a column on another scale, and windows of both."""
    inputs = Inputs(random.normal(size=(5, INPUT_SIZE, 2)).cumsum(axis=1) * [300, 0.02] + [7e4, -1])
    preprocessing = Preprocessing(
        target=Chain(steps=(MeanStd(),), is_causal=False),
        hist=(Chain(steps=(Standardize(),), is_causal=False),),
        known=(),
    ).fit(lambda: [inputs])
    config, shape = ModelConfig.model_validate({"cell": cell, "widths": [12]}), NetworkShape(INPUT_SIZE, HORIZON, 2)
    model = build_model(config, shape, seed=3)
    return TrainedNetwork(model, config, shape, preprocessing), inputs


def tensorflow_gradients(network: TrainedNetwork, windows: Floats) -> Floats:
    """Return `(n, horizon, input_size, columns)`: the network and its transforms, differentiated by TensorFlow."""
    (scale,) = network.preprocessing.hist[0].steps
    assert isinstance(scale, Standardize)
    x = tf.Variable(windows)
    with tf.GradientTape() as tape:
        y = x[:, :, 0]
        mean = tf.reduce_mean(y, axis=1, keepdims=True)
        deviation = tf.sqrt(tf.reduce_mean((y - mean) ** 2, axis=1, keepdims=True))
        prepared = tf.stack([(y - mean) / deviation, (x[:, :, 1] - scale.offset) / scale.scale], axis=2)
        outputs = tf.cast(network.model(tf.cast(prepared, tf.float32))[:, :, 0], tf.float64) * deviation + mean
    return np.asarray(tape.batch_jacobian(outputs, x), dtype=np.float64)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_are_those_of_tensorflow(cell: str) -> None:
    network, inputs = trained(cell, np.random.default_rng(4))
    expected = tensorflow_gradients(network, inputs.values)
    found = np.stack(
        [gradients(lambda windows: network.run(Inputs(windows).feeds).mean, window) for window in inputs.values]
    )
    assert found.shape == (5, HORIZON, INPUT_SIZE, 2)
    for column in range(2):
        error = np.abs(found - expected)[..., column].max() / np.abs(expected[..., column]).max()
        assert error < 1e-3


def test_gradients_predict_how_a_small_change_moves_the_forecast(models: TrainedModels) -> None:
    predictor, history = models.predictor(2), pd.concat([frame(), frame(26, "b")])
    explained = predictor.predict_frame(history, explain=True)
    plain = predictor.predict_frame(history)
    pd.testing.assert_frame_equal(explained[plain.columns], plain, check_exact=True)
    assert list(explained.columns[len(plain.columns) :]) == [f"gradient-y-{lag}" for lag in range(1, 25)]
    for lag in (1, 5):
        changed = history.copy()
        changed.loc[(changed["unique_id"] == "b").to_numpy() & (changed["ds"] == history["ds"].iloc[-lag]), "y"] += 1e-3
        moved = (predictor.predict_frame(changed)["mean"] - plain["mean"]).to_numpy()
        expected = 1e-3 * explained[f"gradient-y-{lag}"].to_numpy()
        np.testing.assert_allclose(moved[4:], expected[4:], atol=2e-6)
        assert (moved[:4] == 0).all()


def test_values_of_positive_columns_stay_positive() -> None:
    window = np.array([[1e-6, 3.0], [5.0, 0.02], [9.0, 4.0], [1.0, 8.0]])

    def forecast(windows: Floats) -> Floats:
        assert (windows > 0).all()
        return np.asarray(np.log(windows).sum(axis=(1, 2)))[:, None]

    found = gradients(forecast, window, above=(0, 0))
    np.testing.assert_allclose(found[0], 1 / window, rtol=1e-4)


def test_missing_values_have_no_gradient() -> None:
    window = np.array([[1.0, 8.0], [np.nan, 7.0], [3.0, np.nan]])
    weights = np.array([[2.0, -1.0], [5.0, 3.0], [4.0, 6.0]])
    found = gradients(lambda windows: np.nansum(windows * weights, axis=(1, 2))[:, None], window)
    np.testing.assert_allclose(found[0], np.where(np.isnan(window), np.nan, weights), rtol=1e-6)


def test_constant_windows_have_gradients() -> None:
    for value in (0.0, 5.0):
        found = gradients(lambda windows: windows[:, -2:, 0] * 3, np.full((4, 1), value))
        np.testing.assert_allclose(found[:, :, 0], [[0, 0, 3, 0], [0, 0, 0, 3]], atol=1e-9)
