"""Recurrent layers that train by a loop of their own, which keeps only the states of each step.

TensorFlow's gradient of a loop stores each value that a step computes, and in XLA it copies the stored outputs of all
steps at every step. This loop keeps the states, and computes a step again for its gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def scan_layers(model: "keras.Model") -> None:
    """Let a network's SimpleRNN and LSTM layers train by `scan`, except those with recurrent dropout.

    The gradients equal those of Keras' loop up to rounding. A GRU stays with Keras' loop: it would be slower here,
    because XLA does not vectorize the change of its only state.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.SimpleRNN | keras.layers.LSTM) and not layer.recurrent_dropout:
            layer.inner_loop = partial(_inner_loop, layer)


def _inner_loop(layer: Any, sequences: Any, initial_state: list[Any], mask: Any, training: bool = False) -> Any:
    """Return a layer's last output, its outputs at each step, and its last states, as Keras' `RNN.inner_loop` does."""
    import tensorflow as tf

    if not training:
        return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
    steps = tf.transpose(sequences, (1, 0, 2))
    states, last = scan(layer.cell, steps[::-1] if layer.go_backwards else steps, initial_state)
    return last[0], tf.transpose(states[0], (1, 0, 2)), last


def _advance(cell: Any, step: Any, states: list[Any]) -> list[Any]:
    """Return a cell's states after a step."""
    import keras

    if isinstance(cell, keras.layers.LSTMCell):
        return _advance_lstm(cell, step, *states)
    return list(cell(step, states, training=True)[1])


def _advance_lstm(cell: Any, step: Any, hidden: Any, memory: Any) -> list[Any]:
    """Return an LSTM's hidden state and cell state after a step, with a single hyperbolic tangent for all gates.

    XLA vectorizes it, but not three sigmoids and a tangent in the update of the cell state. A sigmoid is
    (tanh(x / 2) + 1) / 2.
    """
    from keras import ops

    # with mixed precision, weights are wider than states; Keras casts them when it calls a layer
    kernel, recurrent, bias = (ops.cast(each, hidden.dtype) for each in (cell.kernel, cell.recurrent_kernel, cell.bias))
    sums = ops.matmul(step, kernel) + ops.matmul(hidden, recurrent) + bias
    halves = np.repeat(np.array([0.5, 0.5, 1, 0.5], hidden.dtype.as_numpy_dtype), cell.units)
    # in Keras' order: input gate, forget gate, candidate, output gate
    input_half, forget_half, candidate, output_half = ops.split(ops.tanh(sums * halves), 4, axis=1)
    memory = (forget_half * 0.5 + 0.5) * memory + (input_half * 0.5 + 0.5) * candidate
    return [(output_half * 0.5 + 0.5) * ops.tanh(memory), memory]


def scan(cell: Any, steps: Any, initial: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return a cell's states after each step, `(time, batch, units)` each, and the last of them, `(batch, units)`.

    Source of the gradient: Werbos (1990), doi:10.1109/5.58337; of computing steps again, Chen et al. (2016), arXiv
    1604.06174, section 4.

    Args:
        cell: a Keras cell without dropout, whose first state is its output.
        steps: `(time, batch, inputs)`, with a known number of steps.
        initial: the states before the first step.
    """
    import keras
    import tensorflow as tf

    variables, count = cell.trainable_variables, len(initial)

    def advance(step: Any, states: list[Any], weights: list[Any]) -> list[Any]:
        with keras.StatelessScope(list(zip(variables, weights, strict=True))):
            return _advance(cell, step, states)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(steps: Any, *rest: Any) -> Any:
        states, weights = list(rest[:count]), list(rest[count:])

        def forward(number: Any, states: list[Any]) -> tuple[list[Any], list[Any]]:
            after = advance(steps[number], states, weights)
            return after, after

        last, kept = _loop(forward, states, states, steps.shape[0])

        def gradient(*upstream: Any) -> list[Any]:
            before = [tf.concat([first[None], after[:-1]], 0) for first, after in zip(states, kept, strict=True)]

            def backward(number: Any, carry: list[Any]) -> tuple[list[Any], list[Any]]:
                sources = [steps[number], *(each[number] for each in before), *weights]
                with tf.GradientTape() as tape:
                    tape.watch(sources)
                    after = advance(sources[0], sources[1 : 1 + count], sources[1 + count :])
                own = [up[number] + later for up, later in zip(upstream[:count], carry[:count], strict=True)]
                of_step, *found = tape.gradient(after, sources, own, unconnected_gradients="zero")
                sums = [total + more for total, more in zip(carry[count:], found[count:], strict=True)]
                return [*found[:count], *sums], [of_step]

            carry = [*upstream[count:], *map(tf.zeros_like, weights)]
            totals, of_steps = _loop(backward, carry, [steps[0]], steps.shape[0], is_reversed=True)
            return [*of_steps, *totals]

        return [*kept, *last], gradient

    results = run(steps, *initial, *(variable.value for variable in variables))
    return results[:count], results[count:]


def _loop(
    body: Callable[[Any, list[Any]], tuple[list[Any], list[Any]]],
    carry: list[Any],
    like: list[Any],
    steps: int,
    *,
    is_reversed: bool = False,
) -> tuple[list[Any], list[Any]]:
    """Run `body` for each step; return the last carry, and the stacked outputs, `(steps, …)` each, in order.

    Args:
        body: maps the number of a step and a carry to the next carry and the step's outputs.
        carry: that of the first call.
        like: tensors of the outputs' shapes and types.
        steps: the number of steps.
        is_reversed: whether to begin with the last step.
    """
    import tensorflow as tf

    arrays = [tf.TensorArray(each.dtype, steps, element_shape=each.shape) for each in like]

    def advance(number: Any, carry: list[Any], arrays: list[Any]) -> Any:
        place = steps - 1 - number if is_reversed else number
        carry, kept = body(place, carry)
        return number + 1, carry, [array.write(place, each) for array, each in zip(arrays, kept, strict=True)]

    start = (tf.constant(0), carry, arrays)
    _, carry, arrays = tf.while_loop(lambda number, *_: number < steps, advance, start, maximum_iterations=steps)
    return carry, [array.stack() for array in arrays]
