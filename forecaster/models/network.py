"""The network: described once on a tape, built with Keras for training, and traced into ONNX for serving."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from forecaster.data.preprocessing import Preprocessing
from forecaster.domain.config import Config
from forecaster.evaluation.ridge import PENALTY
from forecaster.models.cells import CELLS
from forecaster.models.decoders import AnyDecoder, Decoded, DecoderInputs, Last
from forecaster.models.encoders import Encoded, Encoder
from forecaster.models.heads import AnyHead, Point
from forecaster.models.inputs import InputConfig, NetworkInputs, context_of, steps_of
from forecaster.models.keras_tape import KerasTape
from forecaster.models.names import ATTENTION, HEAD, SKIP
from forecaster.models.onnx_tape import OnnxTape
from forecaster.models.shape import NetworkShape
from forecaster.models.tape import Array, Tape

if TYPE_CHECKING:
    import keras
    import onnx

# the keys of earlier releases
_TOPOLOGIES = {"many_to_one": "last", "many_to_many": "each_step"}

# a network beside a fitted regression begins close to it
_GAIN_BESIDE_SKIP = 0.1


class ModelConfig(Config):
    """The network's parts.

    The keys of earlier releases are read too: `topology: many_to_one` is `decoder: last`, `topology: many_to_many` is
    `decoder: each_step`, and `widths` and `dropout` are the encoder's.

    Args:
        cell: a name in `CELLS`, of all recurrent layers.
        inputs: how the network reads its inputs.
        encoder: the stack of recurrent layers that reads them.
        decoder: how the encoded window becomes what the head reads.
        head: what is forecast for each step.
        skip: `ridge` adds a ridge regression from the target's window to the horizon. Each fit solves it in closed
            form on its own windows, before the first epoch, and the network learns what is left.
        skip_penalty: the penalty of the regression's weights, relative to the mean square of its inputs.
        members: networks with other initial weights that are fitted and served together; the forecast has the mean of
            their parameters. Lakshminarayanan et al. (2017), arXiv 1612.01474, section 2.4.
    """

    cell: str = "lstm"
    inputs: InputConfig = InputConfig()
    encoder: Encoder = Encoder()
    decoder: AnyDecoder = Last()
    head: AnyHead = Point()
    skip: Literal["none", "ridge"] = "none"
    skip_penalty: float = Field(PENALTY, gt=0, le=1e6)
    members: int = Field(1, ge=1, le=64)

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_keys(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        raw, moved = dict(raw), {}
        if "topology" in raw:
            topology = str(raw.pop("topology"))
            if topology not in _TOPOLOGIES:
                raise ValueError(f"topology: must be one of {', '.join(_TOPOLOGIES)}, or use decoder instead")
            moved["decoder"] = {"kind": _TOPOLOGIES[topology]}
        encoder = {name: raw.pop(name) for name in ("widths", "dropout") if name in raw}
        if encoder:
            own = raw.pop("encoder", {})
            own = own.model_dump() if isinstance(own, Encoder) else own
            if not isinstance(own, dict):
                raise ValueError(f"encoder: must be a mapping, got {own!r}")
            for name in encoder.keys() & own.keys():
                raise ValueError(f"{name} and encoder.{name} set the same; remove {name}")
            moved["encoder"] = own | encoder
        if moved.keys() & raw.keys():
            raise ValueError("topology and decoder set the same; remove topology")
        return raw | moved

    @field_validator("cell")
    @classmethod
    def _cell_is_known(cls, name: str) -> str:
        if name not in CELLS:
            raise ValueError(f"must be one of {', '.join(CELLS)}")
        return name

    @property
    def topology(self) -> str:
        """Return the name of the decoder's way from inputs to outputs."""
        return self.decoder.topology


@dataclass(frozen=True)
class NetworkOutputs:
    """What a network returns.

    Args:
        parameters: the head's parameters of the transformed values, `(batch, horizon, n_parameters)`; for decoders
            that answer each step, `(batch, input_size, horizon, n_parameters)`. If there are several members, the axis
            before the last one is theirs.
        attention: `(batch, horizon, steps)`, or None; the mean of all members.
    """

    parameters: Array
    attention: Array | None


def describe(tape: Tape, config: ModelConfig, shape: NetworkShape, inputs: NetworkInputs) -> NetworkOutputs:
    """Return the network's outputs: the one description that is trained and served."""
    members = [
        _describe_member(_tape_of(tape, config, number), config, shape, inputs) for number in range(config.members)
    ]
    parameters, attention = zip(*((member.parameters, member.attention) for member in members), strict=True)
    if config.skip == "ridge":
        linear = tape.dense(SKIP, inputs.x[:, :, 0], shape.horizon, is_output=True, is_frozen=True)
        parameters = tuple(config.head.shift(tape, each, linear) for each in parameters)
    if config.members == 1:
        return NetworkOutputs(parameters[0], attention[0])
    joined = tape.reshape(
        tape.concat(list(parameters)), (-1, *parameters[0].shape[1:-1], config.members, config.head.n_parameters)
    )
    return NetworkOutputs(joined, sum(attention) / config.members if config.decoder.attends else None)


def _tape_of(tape: Tape, config: ModelConfig, member: int) -> Tape:
    """Return the tape on which a member is described; a single member keeps the names of earlier releases."""
    return tape if config.members == 1 else tape.prefixed(f"member_{member}_")


def _describe_member(tape: Tape, config: ModelConfig, shape: NetworkShape, inputs: NetworkInputs) -> NetworkOutputs:
    encoded, context = _encode(tape, config, shape, inputs)
    decoded = config.decoder.decode(
        tape, DecoderInputs(encoded, context, inputs.known, shape, config.cell, config.encoder)
    )
    return NetworkOutputs(config.head.parameters(tape, _read(tape, config, shape, decoded)), decoded.attention)


def _encode(
    tape: Tape, config: ModelConfig, shape: NetworkShape, inputs: NetworkInputs
) -> tuple[Encoded, Array | None]:
    """Return the encoded window, and what describes the series as a whole."""
    context = context_of(tape, config.inputs, shape, inputs)
    encoded = config.encoder.encode(
        tape, config.cell, steps_of(tape, config.inputs, shape, inputs, context), shape.input_size
    )
    if config.inputs.channels == "shared" and shape.values > 1:
        encoded = _join_channels(tape, encoded, shape.values)
    return encoded, context


def forecast_parameters(config: ModelConfig, parameters: Array) -> Array:
    """Return the parameters of the forecast, `(batch, horizon, n_parameters)`, from those of a network's outputs."""
    if config.members > 1:
        parameters = sum(parameters[..., number, :] for number in range(config.members)) / config.members
    return config.decoder.last(parameters)


def _join_channels(tape: Tape, encoded: Encoded, channels: int) -> Encoded:
    """Return the encodings `(batch · channels, …)` of each channel side by side, `(batch, …, channels · width)`."""
    steps, width = encoded.steps, encoded.width
    apart = tape.permute(tape.reshape(encoded.sequence, (-1, channels, steps, width)), (0, 2, 1, 3))
    last, *states = (tape.reshape(state, (-1, channels * width)) for state in (encoded.last, *encoded.states))
    sequence = tape.reshape(apart, (-1, steps, channels * width))
    return Encoded(sequence, last, tuple(states), steps, channels * width)


def _read(tape: Tape, config: ModelConfig, shape: NetworkShape, decoded: Decoded) -> Array:
    """Return the head's unrestricted numbers, `(batch, [input_size,] horizon, n_parameters)`."""
    count = config.head.n_parameters
    gain = 1.0 if config.skip == "none" else _GAIN_BESIDE_SKIP
    numbers = tape.dense(HEAD, decoded.rows, decoded.steps_per_row * count, is_output=True, gain=gain)
    each_step = (shape.input_size,) if config.decoder.answers_each_step else ()
    return tape.reshape(numbers, (-1, *each_step, shape.horizon, count))


def shape_of(config: ModelConfig, preprocessing: Preprocessing, input_size: int, horizon: int) -> NetworkShape:
    """Return the shape of a network that reads what `preprocessing` returns, fitted or not."""
    n_embedded = int(config.inputs.series_embedding > 0)
    return NetworkShape(
        input_size,
        horizon,
        # for each column that may have missing values, another says which are observed
        (1 + len(preprocessing.hist)) * (2 if preprocessing.is_masked else 1),
        len(preprocessing.known),
        len(preprocessing.numbers),
        preprocessing.sizes[n_embedded:],
        preprocessing.sizes[0] if n_embedded else 0,
    )


def build_model(
    config: ModelConfig, shape: NetworkShape, seed: int = 0, batch_size: int | None = None
) -> "keras.Model":
    """Return the untrained network, which works on transformed values in float32.

    Args:
        config: the network's configuration.
        shape: its shape.
        seed: determines the initial weights and the dropout masks.
        batch_size: the size of every batch, for a network that keeps its states from batch to batch.

    Returns:
        A model of the inputs that `shape` has, in the order of `NetworkInputs`: `x (batch, input_size, values)`,
        `known (batch, input_size + horizon, known)`, `numbers (batch, numbers)`, and the integers `codes (batch,
        codes)`. Its output is `NetworkOutputs.parameters`.
    """
    import keras

    inputs = _keras_inputs(shape, batch_size)
    outputs = describe(KerasTape(seed, batch_size), config, shape, NetworkInputs(**inputs))
    return keras.Model(list(inputs.values()), outputs.parameters, name=f"{config.topology}_{config.cell}")


def build_encoder(config: ModelConfig, shape: NetworkShape) -> "keras.Model":
    """Return the first member's untrained encoder, of the network's inputs.

    Its layers have the names of those of `build_model`. Its output is `Encoded.sequence`.
    """
    import keras

    inputs = _keras_inputs(shape)
    encoded, _ = _encode(_tape_of(KerasTape(0), config, 0), config, shape, NetworkInputs(**inputs))
    return keras.Model(list(inputs.values()), encoded.sequence)


def _keras_inputs(shape: NetworkShape, batch_size: int | None = None) -> dict[str, Any]:
    import keras

    inputs = {"x": keras.Input((shape.input_size, shape.values), batch_size, "float32", name="x")}
    if shape.known:
        rows = shape.input_size + shape.horizon
        inputs["known"] = keras.Input((rows, shape.known), batch_size, "float32", name="known")
    if shape.numbers:
        inputs["numbers"] = keras.Input((shape.numbers,), batch_size, "float32", name="numbers")
    if shape.n_codes:
        inputs["codes"] = keras.Input((shape.n_codes,), batch_size, "int32", name="codes")
    return inputs


def trace_forecast(
    model: "keras.Model", config: ModelConfig, preprocessing: Preprocessing, shape: NetworkShape
) -> "onnx.ModelProto":
    """Return the served graph, which contains the transforms: raw values in, raw values out.

    Args:
        model: the trained network, built by `build_model`.
        config: the network's configuration.
        preprocessing: the fitted preprocessing.
        shape: the network's shape.

    Returns:
        An ONNX model of the inputs `preprocessing.shapes`, whose outputs are the head's, and `attention` if the
        decoder attends; all float64.
    """
    import ndonnx

    arguments = {
        name: ndonnx.argument(shape=("batch", *size), dtype=ndonnx.float64)
        for name, size in preprocessing.shapes(shape.input_size, shape.horizon).items()
    }
    prepared, contexts = preprocessing.forward(arguments)
    inputs = {
        name: ndonnx.astype(array, ndonnx.int64 if name == "codes" else ndonnx.float32)
        for name, array in prepared.items()
    }
    tape = OnnxTape(lambda name: model.get_layer(name).get_weights())
    found = describe(tape, config, shape, NetworkInputs(**inputs))
    parameters = ndonnx.astype(forecast_parameters(config, found.parameters), ndonnx.float64)
    outputs = raw_outputs(config, preprocessing, parameters, contexts)
    if found.attention is not None:
        outputs[ATTENTION] = ndonnx.astype(found.attention, ndonnx.float64)
    graph: onnx.ModelProto = ndonnx.build(arguments, outputs)
    return graph


def raw_outputs(
    config: ModelConfig, preprocessing: Preprocessing, parameters: Array, contexts: Any
) -> dict[str, Array]:
    """Return the head's outputs, raw values.

    Args:
        config: the network's configuration.
        preprocessing: the fitted preprocessing.
        parameters: the head's parameters of the transformed forecast, `(batch, horizon, n_parameters)`, float64, of any
            array API.
        contexts: the contexts of the target's transforms, as `Preprocessing.forward` returns them.
    """
    target = preprocessing.target
    last = target.last_contexts(contexts)

    def inverse(z: Array, with_exp: bool = True) -> Array:
        raw = target.inverse(z, last, with_exp=with_exp)
        return preprocessing.support.bounded(raw) if with_exp else raw

    return config.head.outputs(parameters, inverse)


def output_shapes(config: ModelConfig, shape: NetworkShape) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each output of the served graph, without the batch axis."""
    shapes = config.head.output_shapes(shape.horizon)
    if config.decoder.attends:
        shapes[ATTENTION] = (shape.horizon, shape.input_size // config.encoder.segment_length)
    return shapes
