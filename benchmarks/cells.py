"""Time one recurrent layer in ONNX Runtime as it is exported, and in other forms: `python -m benchmarks.cells`.

The layer has 64 units and reads 50 steps of one value, on one thread. The forms are what a bundle holds; the cell's own
ONNX operator; and a Loop over the steps, as converters of Keras models write it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Row, report
from forecaster.models.cells import CELLS, Weights

UNITS, STEPS, BATCHES, ROUNDS, SECONDS = 64, 50, (1, 64), 9, 0.05
# the states before and after a step; the hidden state first
States = list[Any]
# (a step's inputs times the kernel, states, recurrent kernel, recurrent bias) to the states after the step
Step = Callable[[Any, States, Any, Any], States]
Form = Callable[[str, Any, Weights], Any]


def _gates(x: Any, count: int) -> list[Any]:
    import spox.opset.ai.onnx.v21 as onnx

    return [*onnx.split(x, num_outputs=count, axis=-1)]


def _simple_rnn(x: Any, states: States, recurrent: Any, bias: Any) -> States:
    import spox.opset.ai.onnx.v21 as onnx

    return [onnx.tanh(onnx.add(x, onnx.matmul(states[0], recurrent)))]


def _lstm(x: Any, states: States, recurrent: Any, bias: Any) -> States:
    import spox.opset.ai.onnx.v21 as onnx

    i, f, g, o = _gates(onnx.add(x, onnx.matmul(states[0], recurrent)), 4)
    cell = onnx.add(onnx.mul(onnx.sigmoid(f), states[1]), onnx.mul(onnx.sigmoid(i), onnx.tanh(g)))
    return [onnx.mul(onnx.sigmoid(o), onnx.tanh(cell)), cell]


def _gru(x: Any, states: States, recurrent: Any, bias: Any) -> States:
    import spox.opset.ai.onnx.v21 as onnx

    z_x, r_x, h_x = _gates(x, 3)
    z_h, r_h, h_h = _gates(onnx.add(onnx.matmul(states[0], recurrent), bias), 3)
    z, r = onnx.sigmoid(onnx.add(z_x, z_h)), onnx.sigmoid(onnx.add(r_x, r_h))
    candidate = onnx.tanh(onnx.add(h_x, onnx.mul(r, h_h)))
    return [onnx.add(candidate, onnx.mul(z, onnx.sub(states[0], candidate)))]


def _gru_reset_before(x: Any, states: States, recurrent: Any, bias: Any) -> States:
    import spox.opset.ai.onnx.v21 as onnx

    z_x, r_x, h_x = _gates(x, 3)
    z_u, r_u, h_u = _gates(recurrent, 3)
    z = onnx.sigmoid(onnx.add(z_x, onnx.matmul(states[0], z_u)))
    r = onnx.sigmoid(onnx.add(r_x, onnx.matmul(states[0], r_u)))
    candidate = onnx.tanh(onnx.add(h_x, onnx.matmul(onnx.mul(r, states[0]), h_u)))
    return [onnx.add(candidate, onnx.mul(z, onnx.sub(states[0], candidate)))]


STEP: dict[str, Step] = {"simple_rnn": _simple_rnn, "lstm": _lstm, "gru": _gru, "gru_reset_before": _gru_reset_before}


def exported(cell: str, x: Any, weights: Weights) -> Any:
    """Return the outputs of the operators that a bundle holds."""
    return CELLS[cell].trace(x, weights)[0]


def operator(cell: str, x: Any, weights: Weights) -> Any:
    """Return the outputs of the cell's own operator."""
    return replace(CELLS[cell], unroll=None).trace(x, weights)[0]


def loop(cell: str, x: Any, weights: Weights) -> Any:
    """Return the outputs of a Loop that computes a whole step of a layer in its body."""
    import spox.opset.ai.onnx.v21 as onnx

    kernel, recurrent, bias, recurrent_bias = _constants(weights)
    a_vector = onnx.const(np.array([1]))

    def body(number: Any, condition: Any, *states: Any) -> list[Any]:
        inputs = onnx.squeeze(onnx.gather(x, onnx.reshape(number, a_vector), axis=0), onnx.const(np.array([0])))
        projected = onnx.add(onnx.matmul(inputs, kernel), bias)
        after = STEP[cell](projected, [*states], recurrent, recurrent_bias)
        return [onnx.const(True), *after, after[0]]

    *_, outputs = onnx.loop(onnx.const(np.int64(STEPS)), v_initial=_zeros(cell, x), body=body)
    return outputs


FORMS: dict[str, Form] = {"exported": exported, "operator": operator, "Loop": loop}


def _constants(weights: Weights) -> tuple[Any, Any, Any, Any]:
    """Return the kernel, the recurrent kernel, and the biases of both products."""
    import spox.opset.ai.onnx.v21 as onnx

    kernel, recurrent, bias = weights
    biases = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    return onnx.const(kernel), onnx.const(recurrent), onnx.const(biases[0]), onnx.const(biases[1])


def _zeros(cell: str, x: Any) -> States:
    import spox.opset.ai.onnx.v21 as onnx

    first_inputs = onnx.gather(x, onnx.const(np.int64(0)), axis=0)
    return [onnx.mul(first_inputs, onnx.const(np.zeros((1, UNITS), np.float32)))] * len(CELLS[cell].states)


def session(form: Form, cell: str, weights: Weights) -> Any:
    """Return a session on one thread for a layer that maps `x (steps, batch, 1)` to `h (steps, batch, units)`."""
    import onnxruntime
    import spox

    x = spox.argument(spox.Tensor(np.float32, (STEPS, "batch", 1)))
    graph = spox.build({"x": x}, {"h": form(cell, x, weights)})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _weights(cell: str, random: np.random.Generator) -> Weights:
    layer = CELLS[cell].build(UNITS, seed=1)
    layer.build((None, STEPS, 1))
    return [random.normal(0, 0.1, weight.shape).astype(np.float32) for weight in layer.get_weights()]


def _milliseconds(run: Callable[[], object]) -> float:
    """Return the time of a run on a core: a session of one thread runs in the caller's."""
    runs, begin = 0, time.thread_time()
    while time.thread_time() < begin + SECONDS:
        run()
        runs += 1
    return 1000 * (time.thread_time() - begin) / runs


def _times(sessions: dict[tuple[str, str], Any], x: NDArray[np.float32]) -> dict[tuple[str, str], list[float]]:
    """Return milliseconds by cell and form, of rounds in turn, so that a busy moment slows all of them."""
    found: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
    for _ in range(ROUNDS):
        for key, opened in sessions.items():
            found[key].append(_milliseconds(lambda opened=opened: opened.run(None, {"x": x})))  # type: ignore[misc]
    return found


def measure() -> Iterator[Row]:
    """Yield the time of each cell in each form, and the ratios that are limited."""
    random = np.random.default_rng(0)
    sessions: dict[tuple[str, str], Any] = {}
    for cell in CELLS:
        weights = _weights(cell, random)
        sessions |= {(cell, name): session(form, cell, weights) for name, form in FORMS.items()}
    for batch in BATCHES:
        x = random.normal(size=(STEPS, batch, 1)).astype(np.float32)
        for cell in CELLS:
            outputs = [sessions[cell, name].run(None, {"x": x})[0] for name in FORMS]
            for other in outputs[1:]:
                np.testing.assert_allclose(other, outputs[0], atol=1e-5)
        times = _times(sessions, x)
        medians = {key: statistics.median(found) for key, found in times.items()}
        for (cell, form), found in times.items():
            extremes = min(found), max(found)
            yield Row(f"{cell}, {form}, batch {batch}", medians[cell, form], None, "ms", extremes=extremes)
        for cell in CELLS:
            served = medians[cell, "exported"]
            if batch == 1 and cell != "lstm":
                yield Row(f"{cell}, one window, over LSTM", served / medians["lstm", "exported"], 1.5, "ratio")
            if batch > 1:
                yield Row(f"{cell}, batch {batch}, over Loop", served / medians[cell, "Loop"], 1.0, "ratio")


def main() -> int:
    """Run the benchmark."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.cells", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    return report(list(measure()))


if __name__ == "__main__":
    sys.exit(main())
