"""Cells: the Keras layer and the ONNX operator both compute the published equations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forecaster.models.cells import CELLS
from forecaster.models.encoders import Encoder
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape

BATCH, TIME, INPUTS, UNITS = 3, 9, 2, 4
Array = NDArray[np.floating[Any]]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def simple_rnn(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Elman (1990): h_t = tanh(W x_t + U h_{t-1} + b)."""
    hidden: Array = np.zeros((len(x), UNITS))
    outputs = []
    for t in range(x.shape[1]):
        hidden = np.tanh(x[:, t] @ kernel + hidden @ recurrent + bias)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def lstm(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Gers, Schmidhuber & Cummins (2000): i, f, o = σ(·); c_t = f c_{t-1} + i tanh(·); h_t = o tanh(c_t)."""
    hidden: Array = np.zeros((len(x), UNITS))
    cell = hidden
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + hidden @ recurrent + bias, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def gru(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Cho et al. (2014, v1): z, r = σ(·); h' = tanh(W x + r (U h)); h_t = z h_{t-1} + (1 - z) h'."""
    hidden: Array = np.zeros((len(x), UNITS))
    outputs = []
    for t in range(x.shape[1]):
        z_x, r_x, h_x = np.split(x[:, t] @ kernel + bias[0], 3, axis=1)
        z_h, r_h, h_h = np.split(hidden @ recurrent + bias[1], 3, axis=1)
        z, r = sigmoid(z_x + z_h), sigmoid(r_x + r_h)
        hidden = z * hidden + (1 - z) * np.tanh(h_x + r * h_h)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def gru_reset_before(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Cho et al. (2014, v3), equations 5 to 8: z, r = σ(·); h' = tanh(W x + U (r h)); h_t = z h_{t-1} + (1 - z) h'."""
    hidden: Array = np.zeros((len(x), UNITS))
    outputs = []
    for t in range(x.shape[1]):
        z_x, r_x, h_x = np.split(x[:, t] @ kernel + bias, 3, axis=1)
        z_u, r_u, h_u = np.split(recurrent, 3, axis=1)
        z, r = sigmoid(z_x + hidden @ z_u), sigmoid(r_x + hidden @ r_u)
        hidden = z * hidden + (1 - z) * np.tanh(h_x + (r * hidden) @ h_u)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


EQUATIONS: dict[str, Callable[..., Array]] = {
    "simple_rnn": simple_rnn,
    "lstm": lstm,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
}


def _layer(cell: str) -> tuple[Any, Array, list[Array]]:
    """Return a layer with random weights (biases included), random inputs, and the weights."""
    import keras

    random = np.random.default_rng(5)
    x = random.normal(size=(BATCH, TIME, INPUTS)).astype(np.float32)
    layer = CELLS[cell].build(UNITS, seed=1)
    layer(keras.ops.convert_to_tensor(x))
    layer.set_weights([random.normal(size=weight.shape).astype(np.float32) for weight in layer.get_weights()])
    return layer, x, layer.get_weights()


def test_every_cell_has_an_equation() -> None:
    assert set(EQUATIONS) == set(CELLS)


@pytest.mark.parametrize("cell", CELLS)
def test_layer_computes_the_published_equation(cell: str) -> None:
    import keras

    layer, x, weights = _layer(cell)
    expected = EQUATIONS[cell](x.astype(np.float64), *weights)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)[0]), expected, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_onnx_operator_computes_the_published_equation(cell: str) -> None:
    import onnxruntime
    import spox

    _, x, weights = _layer(cell)
    inputs = spox.argument(spox.Tensor(np.float32, ("time", "batch", INPUTS)))
    outputs, _ = CELLS[cell].trace(inputs, weights)
    graph = spox.build({"x": inputs}, {"h": outputs}).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    served = session.run(None, {"x": np.swapaxes(x, 0, 1)})[0]
    expected = EQUATIONS[cell](x.astype(np.float64), *weights)
    np.testing.assert_allclose(np.swapaxes(served, 0, 1), expected, atol=1e-5)


def test_lstm_with_two_units_has_32_parameters_and_its_head_3() -> None:
    model = build_model(ModelConfig(cell="lstm", encoder=Encoder(widths=(2,))), NetworkShape(3, 1))
    assert [layer.count_params() for layer in model.layers if layer.count_params()] == [32, 3]
