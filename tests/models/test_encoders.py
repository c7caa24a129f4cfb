"""Encoders: each computes the equations of its paper, transcribed in numpy, from the weights of the Keras network."""

from typing import Any

import numpy as np
import pytest

from forecaster.models.network import ModelConfig, build_model
from forecaster.models.refusals import Design, find_refusals
from forecaster.models.shape import NetworkShape
from tests.models.equations import EQUATIONS, Array, dense, gru_step, with_random_weights

BATCH, INPUT_SIZE, HORIZON = 3, 6, 2


def _network(decoder: Any = "last", **encoder: Any) -> tuple[Any, Array, Array]:
    """Return a GRU network with random weights, random inputs, and its outputs for them."""
    config = ModelConfig.model_validate({"cell": "gru", "encoder": encoder, "decoder": decoder})
    model = with_random_weights(build_model(config, NetworkShape(INPUT_SIZE, HORIZON)))
    x = np.random.default_rng(2).normal(size=(BATCH, INPUT_SIZE, 1))
    return model, x, np.asarray(model([x.astype(np.float32)], training=False))[..., 0].astype(np.float64)


def _weights(model: Any, name: str) -> list[Array]:
    return [weight.astype(np.float64) for weight in model.get_layer(name).get_weights()]


@pytest.mark.parametrize("dilation", [1, 2, 3, 6])
def test_dilated_layer_continues_from_the_state_dilation_steps_before(dilation: int) -> None:
    """Chang et al. (2017), equation 2: c_t = f(x_t, c_{t-s}), with zeros before the first steps."""
    model, x, outputs = _network(widths=[4], dilations=[dilation])
    states: list[Array] = []
    for step in range(INPUT_SIZE):
        before = states[step - dilation] if step >= dilation else np.zeros((BATCH, 4))
        states.append(gru_step(x[:, step], before, *_weights(model, "encoder_0")))
    np.testing.assert_allclose(outputs, dense(states[-1], *_weights(model, "head")), atol=1e-5)


def test_segments_are_folded_by_a_dense_layer_with_relu() -> None:
    """Lin et al. (2023), section 3.1: x_d = ReLU(W x_w + b), for segments x_w of w rows."""
    model, x, outputs = _network(widths=[4], segment_length=3)
    folded = np.maximum(dense(x[:, :, 0].reshape(BATCH, 2, 3), *_weights(model, "segment")), 0)
    last = EQUATIONS["gru"](folded, *_weights(model, "encoder_0"))[:, -1]
    np.testing.assert_allclose(outputs, dense(last, *_weights(model, "head")), atol=1e-5)


def test_bidirectional_layer_joins_the_states_after_the_last_and_before_the_first_step() -> None:
    """Schuster & Paliwal (1997): one layer reads forwards, another backwards."""
    model, x, outputs = _network(widths=[4], bidirectional=True)
    forwards = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))[:, -1]
    backwards = EQUATIONS["gru"](x[:, ::-1], *_weights(model, "encoder_0_backwards"))[:, -1]
    joined = np.concatenate([forwards, backwards], axis=1)
    np.testing.assert_allclose(outputs, dense(joined, *_weights(model, "head")), atol=1e-5)


def test_residual_reaches_the_decoder_that_continues_from_the_states() -> None:
    model, x, _ = _network(widths=[4, 4], residual=True, decoder={"kind": "seq2seq"})
    first = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))
    state: Array = (EQUATIONS["gru"](first, *_weights(model, "encoder_1")) + first)[:, -1]
    (positions,) = _weights(model, "position")
    after = gru_step(np.tile(positions[0], (BATCH, 1)), state, *_weights(model, "decoder"))
    first_step = np.asarray(model([x.astype(np.float32)], training=False))[:, 0]
    np.testing.assert_allclose(first_step, dense(after, *_weights(model, "head")), atol=1e-5)


def test_segments_of_the_horizon_cannot_have_residuals() -> None:
    raw = {"encoder": {"widths": [4, 4], "residual": True, "segment_length": 2}, "decoder": "segment_parallel"}
    design = Design(ModelConfig.model_validate(raw), NetworkShape(INPUT_SIZE, HORIZON), [])
    (refusal,) = find_refusals(design)
    assert refusal.startswith("decoder: segment_parallel and encoder.residual: ")


def test_residual_layer_adds_its_input() -> None:
    """Prakash et al. (2016), equation 2: the input of a layer is added to its output."""
    model, x, outputs = _network(widths=[4, 4], residual=True)
    first = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))
    second = EQUATIONS["gru"](first, *_weights(model, "encoder_1")) + first
    np.testing.assert_allclose(outputs, dense(second[:, -1], *_weights(model, "head")), atol=1e-5)
