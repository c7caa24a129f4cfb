"""Cells: the Keras layer and the ONNX operator both compute the published equations."""

from typing import Any

import numpy as np
import pytest

from forecaster.models.cells import CELLS
from forecaster.models.encoders import Encoder
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from tests.models.equations import EQUATIONS, Array, with_random_weights

BATCH, TIME, INPUTS, UNITS = 3, 9, 2, 4


def _layer(cell: str) -> tuple[Any, Array, list[Array]]:
    """Return a layer with random weights (biases included), random inputs, and the weights."""
    import keras

    random = np.random.default_rng(5)
    x = random.normal(size=(BATCH, TIME, INPUTS)).astype(np.float32)
    layer = CELLS[cell].build(UNITS, seed=1)
    layer(keras.ops.convert_to_tensor(x))
    return with_random_weights(layer), x, layer.get_weights()


def test_every_cell_has_an_equation() -> None:
    assert set(EQUATIONS) == set(CELLS)


@pytest.mark.parametrize("cell", CELLS)
def test_layer_computes_the_published_equation(cell: str) -> None:
    import keras

    layer, x, weights = _layer(cell)
    expected = EQUATIONS[cell](x.astype(np.float64), *weights)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)[0]), expected, atol=1e-5)


# a symbolic number of steps is traced into the cell's operator, a known one may be unrolled
@pytest.mark.parametrize("steps", ["time", TIME], ids=str)
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("cell", CELLS)
def test_onnx_operators_compute_the_published_equation(cell: str, is_reversed: bool, steps: str | int) -> None:
    import onnxruntime
    import spox

    _, x, weights = _layer(cell)
    inputs = spox.argument(spox.Tensor(np.float32, (steps, "batch", INPUTS)))
    outputs, states = CELLS[cell].trace(inputs, weights, is_reversed=is_reversed)
    graph = spox.build({"x": inputs}, {"h": outputs, "last": states[0]}).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    served, last = session.run(None, {"x": np.swapaxes(x, 0, 1)})
    order = slice(None, None, -1 if is_reversed else 1)
    expected = EQUATIONS[cell](x[:, order].astype(np.float64), *weights)
    np.testing.assert_allclose(np.swapaxes(served, 0, 1), expected[:, order], atol=1e-5)
    np.testing.assert_allclose(last, expected[:, -1], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_do_not_depend_on_the_size_of_the_batch(cell: str) -> None:
    import onnxruntime
    import spox

    x = np.random.default_rng(5).normal(size=(TIME, 16, INPUTS)).astype(np.float32)
    layer = CELLS[cell].build(32, seed=1)
    layer.build((None, TIME, INPUTS))
    inputs = spox.argument(spox.Tensor(np.float32, (TIME, "batch", INPUTS)))
    outputs, _ = CELLS[cell].trace(inputs, with_random_weights(layer).get_weights())
    graph = spox.build({"x": inputs}, {"h": outputs}).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    together = session.run(None, {"x": x})[0]
    alone = [session.run(None, {"x": x[:, row : row + 1]})[0] for row in range(16)]
    # bit by bit, because the leakage audit compares forecasts in batches of other sizes
    np.testing.assert_array_equal(np.concatenate(alone, axis=1), together)


def test_lstm_with_two_units_has_32_parameters_and_its_head_3() -> None:
    model = build_model(ModelConfig(cell="lstm", encoder=Encoder(widths=(2,))), NetworkShape(3, 1))
    assert [layer.count_params() for layer in model.layers if layer.count_params()] == [32, 3]
