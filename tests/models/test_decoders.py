"""Decoders: each computes the equations of its paper, transcribed in numpy, from the weights of the Keras network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from tests.models.equations import EQUATIONS, Array, dense, gru_step, with_random_weights

BATCH, INPUT_SIZE, HORIZON, UNITS = 3, 6, 4, 5


def _network(decoder: dict[str, Any], **encoder: Any) -> tuple[Any, Array, Array]:
    """Return a GRU network with random weights, random inputs, and its outputs for them."""
    raw = {"cell": "gru", "encoder": {"widths": [UNITS], **encoder}, "decoder": decoder}
    model = with_random_weights(build_model(ModelConfig.model_validate(raw), NetworkShape(INPUT_SIZE, HORIZON)))
    x = np.random.default_rng(2).normal(size=(BATCH, INPUT_SIZE, 1))
    outputs = np.asarray(model([x.astype(np.float32)], training=False))
    return model, x, outputs[..., 0].astype(np.float64)


def _weights(model: Any, name: str) -> list[Array]:
    return [weight.astype(np.float64) for weight in model.get_layer(name).get_weights()]


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _decoder_states(model: Any, last: Array) -> Array:
    """Return the decoder's state after each step, `(batch, horizon, units)`: it reads the step's embedded position."""
    (positions,) = _weights(model, "position")
    states, state = [], last
    for step in range(HORIZON):
        state = gru_step(np.tile(positions[step], (BATCH, 1)), state, *_weights(model, "decoder"))
        states.append(state)
    return np.stack(states, axis=1)


def _attended(model: Any, x: Array, score: Callable[[Array, Array], Array]) -> Array:
    """Return the forecast with attention: `score` rates a decoder's state and an encoder's state."""
    annotations = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))
    states = _decoder_states(model, annotations[:, -1])
    forecast = []
    for step in range(HORIZON):
        scores = np.stack([score(states[:, step], annotations[:, j]) for j in range(INPUT_SIZE)], axis=1)
        context = np.einsum("bj,bju->bu", _softmax(scores), annotations)
        # Luong et al. (2015), equation 5: tanh(W [c; h])
        attentional = np.tanh(dense(np.concatenate([context, states[:, step]], axis=1), *_weights(model, "attention")))
        forecast.append(dense(attentional, *_weights(model, "head"))[:, 0])
    return np.stack(forecast, axis=1)


def test_last_reads_the_state_after_the_last_step() -> None:
    model, x, outputs = _network({"kind": "last"})
    last = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))[:, -1]
    np.testing.assert_allclose(outputs, dense(last, *_weights(model, "head")), atol=1e-5)


def test_repeat_reads_the_encoded_window_at_each_step() -> None:
    model, x, outputs = _network({"kind": "repeat"})
    last = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))[:, -1]
    rows = EQUATIONS["gru"](np.repeat(last[:, None], HORIZON, axis=1), *_weights(model, "decoder"))
    np.testing.assert_allclose(outputs, dense(rows, *_weights(model, "head"))[..., 0], atol=1e-5)


def test_seq2seq_continues_from_the_encoders_states() -> None:
    model, x, outputs = _network({"kind": "seq2seq"})
    last = EQUATIONS["gru"](x, *_weights(model, "encoder_0"))[:, -1]
    expected = dense(_decoder_states(model, last), *_weights(model, "head"))[..., 0]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_additive_attention_is_bahdanaus() -> None:
    """Bahdanau, Cho & Bengio (2015), appendix A.1.2: e_ij = v tanh(W s_i + U h_j)."""
    model, x, outputs = _network({"kind": "seq2seq", "attention": "additive"})
    query, key, score = (_weights(model, f"attention_{name}") for name in ("query", "key", "score"))
    expected = _attended(model, x, lambda s, h: dense(np.tanh(dense(s, *query) + dense(h, *key)), *score)[:, 0])
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_multiplicative_attention_is_luongs_general_score() -> None:
    """Luong, Pham & Manning (2015), equation 8: score = (s W) h."""
    model, x, outputs = _network({"kind": "seq2seq", "attention": "multiplicative"})
    query = _weights(model, "attention_query")
    expected = _attended(model, x, lambda s, h: np.sum(dense(s, *query) * h, axis=1))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("widths", [[UNITS], [4, UNITS]], ids=["one layer", "two layers"])
def test_segment_parallel_is_segrnns_parallel_decoding(widths: list[int]) -> None:
    """Lin et al. (2023), section 3: segments, a ReLU projection, a GRU, and a step from its state for each segment."""
    length = 2
    model, x, outputs = _network({"kind": "segment_parallel"}, widths=widths, segment_length=length)
    segments = x[:, :, 0].reshape(BATCH, INPUT_SIZE // length, length)
    rows = np.maximum(dense(segments, *_weights(model, "segment")), 0)
    for number in range(len(widths)):
        rows = EQUATIONS["gru"](rows, *_weights(model, f"encoder_{number}"))
    (positions,) = _weights(model, "position")
    last = f"encoder_{len(widths) - 1}"
    expected = []
    for position in positions:
        state = gru_step(np.tile(position, (BATCH, 1)), rows[:, -1], *_weights(model, last))
        expected.append(dense(state, *_weights(model, "head")))
    np.testing.assert_allclose(outputs, np.concatenate(expected, axis=1), atol=1e-5)
