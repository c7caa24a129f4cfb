"""The network: `build_model` builds it for training, and `trace_forecast` traces it for serving."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from forecaster.data.preprocessing import Preprocessing
from forecaster.domain.config import Config
from forecaster.models.cells import CELLS
from forecaster.models.heads import HEADS
from forecaster.models.topologies import TOPOLOGIES

if TYPE_CHECKING:
    import keras
    import onnx


def _one_of(known: dict[str, Any], name: str) -> str:
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


# two layers of 4096 LSTM units have 800 MB of weights
Width = Annotated[int, Field(ge=1, le=4096)]


class ModelConfig(Config):
    """The network's topology, cell and head, the `widths` of its layers in order, and the dropout after each layer."""

    topology: str = "many_to_one"
    cell: str = "lstm"
    head: str = "point"
    widths: tuple[Width, ...] = Field((32,), min_length=1, max_length=16)
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("topology")
    @classmethod
    def _topology_is_known(cls, name: str) -> str:
        return _one_of(TOPOLOGIES, name)

    @field_validator("cell")
    @classmethod
    def _cell_is_known(cls, name: str) -> str:
        return _one_of(CELLS, name)

    @field_validator("head")
    @classmethod
    def _head_is_known(cls, name: str) -> str:
        return _one_of(HEADS, name)


def build_model(
    config: ModelConfig, input_size: int, horizon: int, features: int = 1, known: int = 0, seed: int = 0
) -> "keras.Model":
    """Return the untrained network, which works on transformed values in float32.

    Args:
        config: the network's configuration.
        input_size: steps of input.
        horizon: steps of forecast.
        features: the number of inputs at each step: the target and `hist_exog`.
        known: the number of features known ahead. Each step gets its own values, and the head those of the horizon.
        seed: determines the initial weights and the dropout masks.

    Returns:
        A model `(batch, input_size, features) → (batch, horizon)`, or `→ (batch, input_size, horizon)` if many-to-many;
        if `known` is above 0, with a second input `(batch, input_size + horizon, known)`.
    """
    import keras

    inputs = [keras.Input((input_size, features), dtype="float32")]
    hidden = inputs[0]
    if known:
        inputs.append(keras.Input((input_size + horizon, known), dtype="float32"))
        hidden = keras.ops.concatenate([hidden, inputs[1][:, :input_size]], axis=-1)
    for number, units in enumerate(config.widths):
        hidden = CELLS[config.cell].build(units, seed + 10 * number)(hidden)
        if config.dropout:
            hidden = keras.layers.Dropout(config.dropout, seed=seed + 10 * number + 2)(hidden)
    # always float32: a float16 head would round the forecast
    head = HEADS[config.head].build(horizon, seed + 10 * len(config.widths))
    head.dtype_policy = keras.DTypePolicy("float32")
    read = TOPOLOGIES[config.topology].readout(hidden)
    if known:
        read = keras.ops.concatenate([read, TOPOLOGIES[config.topology].ahead(inputs[1], input_size, horizon)], axis=-1)
    return keras.Model(inputs, head(read), name=f"{config.topology}_{config.cell}")


def trace_forecast(
    model: "keras.Model", config: ModelConfig, preprocessing: Preprocessing, input_size: int, horizon: int
) -> "onnx.ModelProto":
    """Return the served graph, which contains the transforms: raw values in, raw values out.

    Args:
        model: the trained network, built by `build_model`.
        config: the network's configuration.
        preprocessing: the fitted preprocessing.
        input_size: steps of input.
        horizon: steps of forecast.

    Returns:
        An ONNX model `x (batch, input_size, 1 + hist_exog) → mean (batch, horizon)`, float64; if features are known
        ahead, with a second input `known (batch, input_size + horizon, features)`.
    """
    import ndonnx
    import spox.opset.ai.onnx.v21 as operators

    arguments = {"x": ndonnx.argument(shape=("batch", input_size, 1 + len(preprocessing.hist)), dtype=ndonnx.float64)}
    if preprocessing.known:
        shape = ("batch", input_size + horizon, len(preprocessing.known))
        arguments["known"] = ndonnx.argument(shape=shape, dtype=ndonnx.float64)
    (x, *known), contexts = preprocessing.forward(arguments["x"], arguments.get("known"))
    steps = ndonnx.concat([x, *(ahead[:, :input_size, :] for ahead in known)], axis=2)
    hidden = operators.transpose(ndonnx.astype(steps, ndonnx.float32).unwrap_spox(), perm=[1, 0, 2])
    recurrent = [layer for layer in model.layers if type(layer).__name__ == CELLS[config.cell].layer]
    for layer in recurrent:
        hidden = CELLS[config.cell].trace(hidden, layer.get_weights())
    last = ndonnx.asarray(operators.gather(hidden, operators.const(input_size - 1), axis=0))
    width = horizon * len(preprocessing.known)
    ahead = [ndonnx.reshape(ndonnx.astype(array[:, input_size:, :], ndonnx.float32), (-1, width)) for array in known]
    read = ndonnx.concat([last, *ahead], axis=1).unwrap_spox()
    outputs = HEADS[config.head].trace(read, model.get_layer("head").get_weights())
    z = ndonnx.astype(ndonnx.asarray(outputs), ndonnx.float64)
    target = preprocessing.target
    mean = target.inverse(z, target.last_contexts(contexts))
    graph: onnx.ModelProto = ndonnx.build(arguments, {"mean": mean})
    return graph
