"""Combinations of a network's parts: each one learns, and its served graph gives its forecasts by native operators."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forecaster.domain.series import Inputs
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.network import ModelConfig, forecast_parameters, output_shapes, raw_outputs
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import TrainedNetwork, network_inputs
from forecaster.registry.bundle import largest_difference
from forecaster.training.networks import loss_of
from tests.models.combinations import (
    INPUT_SIZE,
    PARTS,
    Combination,
    cover,
    every_network,
    target_shape,
    trained_network,
)
from tests.models.tracing import fast_traces

# `make conformance` tests every combination
IS_COMPLETE = bool(os.environ.get("FORECASTER_CONFORMANCE"))
TOLERANCE = 1e-5
CONTROL_FLOW = {"Loop", "If", "Scan"}


@pytest.fixture(scope="module")
def _fast_traces() -> Iterator[None]:
    with fast_traces():
        yield


@dataclass(frozen=True)
class TrainingPass:
    """The network's outputs for a batch in training, their loss, and the largest gradient of each layer."""

    parameters: NDArray[np.float32]
    loss: float
    gradients: dict[str, float]


def _training_pass(trained: TrainedNetwork, inputs: list[NDArray[Any]]) -> TrainingPass:
    """Compute the network eagerly: to compile each of thousands of networks would take longer than all the rest."""
    import tensorflow as tf

    model = trained.model
    random, is_masked = np.random.default_rng(6), trained.preprocessing.is_masked
    actual = random.normal(size=(len(inputs[0]), *target_shape(trained))).astype(np.float32)
    if is_masked:
        actual[random.uniform(size=actual.shape) < 1 / 3] = np.nan
    layers = [layer for layer in model.layers if layer.trainable_weights]
    with tf.GradientTape() as tape:
        parameters = model(inputs, training=True)
        loss = loss_of(trained.config.head, is_masked, trained.config.members)(actual, parameters)
    gradients = tape.gradient(loss, [[weight.value for weight in layer.trainable_weights] for layer in layers])
    largest = {
        layer.name: max(float(np.abs(tf.convert_to_tensor(gradient)).max()) for gradient in found)
        for layer, found in zip(layers, gradients, strict=True)
    }
    return TrainingPass(np.asarray(parameters), float(loss), largest)


def _expected(trained: TrainedNetwork, inputs: Inputs) -> tuple[TrainingPass, Forecasts]:
    """Return a training pass, and the network's forecasts, which are the pass's if training drops nothing."""
    config, preprocessing = trained.config, trained.preprocessing
    prepared, contexts = preprocessing.forward(inputs.feeds)
    training = _training_pass(trained, network_inputs(prepared))
    if config.encoder.dropout or config.encoder.recurrent_dropout:
        trained.model.run_eagerly = True
        return training, trained.predict(inputs)
    parameters = forecast_parameters(config, training.parameters).astype(np.float64)
    outputs = raw_outputs(config, preprocessing, parameters, contexts)
    return training, config.head.forecasts(outputs, preprocessing.target.needs_positive)


@pytest.mark.usefixtures("_fast_traces")
@pytest.mark.parametrize("combination", every_network() if IS_COMPLETE else cover(2), ids=str)
def test_every_layer_learns_and_the_served_graph_gives_the_networks_forecasts(combination: Combination) -> None:
    trained, inputs = trained_network(combination, np.random.default_rng(5))
    training, expected = _expected(trained, inputs)
    assert np.isfinite(training.loss)
    # a step of gradient descent changes every layer
    assert all(0 < gradient < np.inf for gradient in training.gradients.values()), training.gradients
    assert not {node.op_type for node in trained.trace().graph.node} & CONTROL_FLOW
    served = trained.run(inputs.feeds)
    assert served.mean.shape == (len(inputs), combination.shape.horizon)
    assert largest_difference(inputs, served, expected) < TOLERANCE


@pytest.mark.usefixtures("_fast_traces")
@pytest.mark.parametrize("decoder", [name for name in PARTS["decoder"] if name != "segment_parallel"])
def test_a_horizon_of_one_step_is_traced_with_its_shape(decoder: str) -> None:
    config = ModelConfig.model_validate(
        {"cell": "gru", "encoder": {"widths": [4]}, "decoder": PARTS["decoder"][decoder]}
    )
    one = Combination((decoder,), config, NetworkShape(INPUT_SIZE, 1))
    trained, inputs = trained_network(one, np.random.default_rng(5))
    graph = trained.trace().graph
    shapes = {
        output.name: [size.dim_value for size in output.type.tensor_type.shape.dim[1:]] for output in graph.output
    }
    assert shapes == {name: list(shape) for name, shape in output_shapes(config, one.shape).items()}
    assert largest_difference(inputs, trained.run(inputs.feeds), trained.predict(inputs)) < TOLERANCE


def test_fast_trace_is_the_same_graph() -> None:
    trained, _ = trained_network(cover(1)[-1], np.random.default_rng(5))
    with fast_traces():
        fast = trained.trace()
    assert fast == trained.trace()
