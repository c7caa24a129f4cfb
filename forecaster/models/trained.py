"""A trained network: its weights, its configuration and its fitted transforms, which together make a forecast."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.domain.cores import usable_cores
from forecaster.domain.errors import TrainingError
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.names import ATTENTION
from forecaster.models.network import ModelConfig, forecast_parameters, output_shapes, raw_outputs, trace_forecast
from forecaster.models.shape import NetworkShape
from forecaster.models.tape import Array

if TYPE_CHECKING:
    import keras
    import onnx

Float32 = NDArray[np.float32]
# a batch of this size fits a processor's cache
_BATCH = 256


@dataclass(frozen=True)
class TrainedNetwork:
    """A fitted network in float32, with its configuration, its shape and its fitted transforms."""

    model: "keras.Model"
    config: ModelConfig
    shape: NetworkShape
    preprocessing: Preprocessing

    @property
    def names(self) -> list[str]:
        """Return the names of the head's outputs: `mean` first."""
        return list(self.config.head.output_shapes(self.shape.horizon))

    def predict(self, inputs: Inputs) -> Forecasts:
        """Return the forecasts of raw inputs, computed by Keras."""
        prepared, contexts = self.preprocessing.forward(inputs.feeds)
        parameters = forecast_parameters(self.config, predict_batches(self.model, network_inputs(prepared)))
        outputs = raw_outputs(self.config, self.preprocessing, parameters.astype(np.float64), contexts)
        return self.config.head.forecasts(outputs, self.preprocessing.target.needs_positive)

    def forecast(self, windows: Windows) -> Forecasts:
        """Return the forecasts of all windows, computed by the served graph in bounded memory.

        On a CPU the graph is three times as fast as Keras.

        Raises:
            TrainingError: a forecast is not finite.
        """
        feeds = (windows.inputs(index).feeds for index in windows.chunks(_BATCH))
        forecasts = Forecasts.join([self.run(batch) for batch in feeds])
        check_finite(forecasts)
        return forecasts

    def run(self, feeds: Mapping[str, Floats]) -> Forecasts:
        """Return the forecasts of raw inputs, computed by the served graph in one batch."""
        outputs = dict(zip(self.names, self.session.run(self.names, feeds), strict=True))
        return self.config.head.forecasts(outputs, self.preprocessing.target.needs_positive)

    def attention(self, inputs: Inputs) -> Floats | None:
        """Return the attention weights of raw inputs, `(n, horizon, steps)`; None if the decoder does not attend."""
        if ATTENTION not in output_shapes(self.config, self.shape):
            return None
        (weights,) = self.session.run([ATTENTION], inputs.feeds)
        return np.asarray(weights)

    @cached_property
    def session(self) -> Any:
        """Return an ONNX Runtime session for the served graph."""
        return open_session(self.trace())

    def trace(self) -> "onnx.ModelProto":
        """Return the graph that serves this network."""
        return trace_forecast(self.model, self.config, self.preprocessing, self.shape)


def check_finite(forecasts: Forecasts) -> None:
    """Raise TrainingError if a forecast is not finite."""
    wrong = np.asarray(~np.isfinite(forecasts.mean).all(axis=1))
    if forecasts.offsets is not None:
        wrong |= ~np.isfinite(forecasts.offsets).all(axis=(1, 2))
    if wrong.any():
        raise TrainingError(
            f"the network's forecasts of {wrong.sum()} of {len(forecasts)} windows are not finite; lower "
            "fit.learning_rate, or add a transform such as standardize"
        )


def network_inputs(prepared: Mapping[str, Array]) -> list[NDArray[Any]]:
    """Return prepared inputs as Keras takes them: float32, and positions in embeddings as integers."""
    return [array.astype(np.int32 if name == "codes" else np.float32) for name, array in prepared.items()]


def predict_batches(model: "keras.Model", inputs: list[NDArray[Any]], batch_size: int = 512) -> Float32:
    """Return the network's outputs, computed batch by batch.

    The last batch is padded: a batch of another shape would be compiled again.
    """
    size = min(batch_size, len(inputs[0]))
    outputs = []
    for begin in range(0, len(inputs[0]), size):
        batch = [array[begin : begin + size] for array in inputs]
        count = len(batch[0])
        padded = [np.concatenate([array, np.zeros((size - count, *array.shape[1:]), array.dtype)]) for array in batch]
        outputs.append(np.asarray(model.predict_on_batch(padded))[:count])
    return np.concatenate(outputs)


def open_session(graph: "onnx.ModelProto") -> Any:
    """Return an ONNX Runtime session for a graph, using every core that this process may use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
