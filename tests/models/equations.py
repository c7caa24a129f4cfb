"""The published equations of recurrent cells, transcribed in numpy, and layers with random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def simple_rnn(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Elman (1990): h_t = tanh(W x_t + U h_{t-1} + b)."""
    hidden: Array = np.zeros((len(x), len(recurrent)))
    outputs = []
    for t in range(x.shape[1]):
        hidden = np.tanh(x[:, t] @ kernel + hidden @ recurrent + bias)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def lstm(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Gers, Schmidhuber & Cummins (2000): i, f, o = σ(·); c_t = f c_{t-1} + i tanh(·); h_t = o tanh(c_t)."""
    hidden: Array = np.zeros((len(x), len(recurrent)))
    cell = hidden
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + hidden @ recurrent + bias, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def gru_step(x: Array, hidden: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Cho et al. (2014, v1): z, r = σ(·); h' = tanh(W x + r (U h)); h_t = z h_{t-1} + (1 - z) h'."""
    z_x, r_x, h_x = np.split(x @ kernel + bias[0], 3, axis=1)
    z_h, r_h, h_h = np.split(hidden @ recurrent + bias[1], 3, axis=1)
    z, r = sigmoid(z_x + z_h), sigmoid(r_x + r_h)
    return np.asarray(z * hidden + (1 - z) * np.tanh(h_x + r * h_h))


def gru(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """The states of `gru_step` after each step, from zeros."""
    hidden: Array = np.zeros((len(x), len(recurrent)))
    outputs = []
    for t in range(x.shape[1]):
        hidden = gru_step(x[:, t], hidden, kernel, recurrent, bias)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def gru_reset_before(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Cho et al. (2014, v3), equations 5 to 8: z, r = σ(·); h' = tanh(W x + U (r h)); h_t = z h_{t-1} + (1 - z) h'."""
    hidden: Array = np.zeros((len(x), len(recurrent)))
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


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """A fully connected layer: x W + b."""
    return np.asarray(x @ kernel + bias)


def with_random_weights(model: Any) -> Any:
    """Return a Keras network, or a layer, after giving it random weights, biases included."""
    random = np.random.default_rng(5)
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    return model
