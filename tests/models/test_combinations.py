"""Combinations of a network's parts: each one learns, and its served graph gives its forecasts by native operators."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from forecaster.domain.series import Inputs
from forecaster.models.decoders import SegmentParallel, Seq2Seq
from forecaster.models.trained import TrainedNetwork, network_inputs
from forecaster.registry.bundle import largest_difference
from forecaster.training.networks import loss_of
from tests.models.combinations import Combination, cover, every_network, trained_network
from tests.models.constants import known_constants

# `make conformance` tests every combination
IS_COMPLETE = bool(os.environ.get("FORECASTER_CONFORMANCE"))
TOLERANCE = 1e-5
CONTROL_FLOW = {"Loop", "If", "Scan"}


@pytest.fixture(scope="module")
def _fast_traces() -> Iterator[None]:
    with known_constants():
        yield


def _unread(trained: TrainedNetwork) -> set[str]:
    """Return the layers that no output depends on: the last residual, for a decoder that reads the states alone."""
    config = trained.config
    reads_states_alone = str(config.decoder) in map(str, (Seq2Seq(), SegmentParallel()))
    return {f"encoder_{len(config.encoder.widths) - 1}_skip"} if reads_states_alone else set()


def _train_one_step(trained: TrainedNetwork, inputs: Inputs) -> tuple[float, dict[str, float]]:
    """Take a step of gradient descent; return the loss, and for each layer its largest change."""
    import tensorflow as tf

    model, random = trained.model, np.random.default_rng(6)
    actual = random.normal(size=(len(inputs), *model.output_shape[1:-1])).astype(np.float32)
    prepared, _ = trained.preprocessing.forward(inputs.feeds)
    layers = [layer for layer in model.layers if layer.trainable_weights and layer.name not in _unread(trained)]
    weights = [[weight.value for weight in layer.trainable_weights] for layer in layers]
    with tf.GradientTape() as tape:
        errors = loss_of(trained.config.head)(actual, model(network_inputs(prepared), training=True))
    gradients = tape.gradient(errors, weights)
    largest = {}
    for layer, variables, found in zip(layers, weights, gradients, strict=True):
        steps = [0.01 * tf.convert_to_tensor(gradient) for gradient in found]
        for variable, step in zip(variables, steps, strict=True):
            variable.assign_sub(step)
        largest[layer.name] = max(float(np.abs(step).max()) for step in steps)
    return float(errors), largest


@pytest.mark.usefixtures("_fast_traces")
@pytest.mark.parametrize("combination", every_network() if IS_COMPLETE else cover(2), ids=str)
def test_network_learns_and_its_served_graph_gives_its_forecasts(combination: Combination) -> None:
    trained, inputs = trained_network(combination, np.random.default_rng(5))
    trained.model.run_eagerly = True
    loss, changes = _train_one_step(trained, inputs)
    assert np.isfinite(loss)
    assert all(0 < change < np.inf for change in changes.values()), changes
    assert not {node.op_type for node in trained.trace().graph.node} & CONTROL_FLOW
    served = trained.run(inputs.feeds)
    assert served.mean.shape == (len(inputs), combination.shape.horizon)
    assert largest_difference(inputs, served, trained.predict(inputs)) < TOLERANCE


def test_fast_trace_is_the_same_graph() -> None:
    trained, _ = trained_network(cover(1)[0], np.random.default_rng(5))
    with known_constants():
        fast = trained.trace()
    assert fast == trained.trace()
