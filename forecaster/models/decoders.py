"""Decoders: how an encoded window becomes what the head reads for each step of the horizon. Add one to `AnyDecoder`."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from forecaster.data.windows import Windows
from forecaster.domain.config import Config, short_for
from forecaster.domain.series import Floats
from forecaster.models.encoders import Encoded, Encoder
from forecaster.models.shape import NetworkShape
from forecaster.models.tape import Array, Tape


@dataclass(frozen=True)
class DecoderInputs:
    """What a decoder reads.

    Args:
        encoded: the encoded window.
        context: what describes the series as a whole, `(batch, width)`, or None.
        known: the columns known ahead, `(batch, input_size + horizon, features)`, or None.
        shape: the network's shape.
        cell: a name in `CELLS`.
        encoder: the encoder's configuration.
    """

    encoded: Encoded
    context: Array | None
    known: Array | None
    shape: NetworkShape
    cell: str
    encoder: Encoder

    @property
    def ahead(self) -> Array | None:
        """Return the columns known ahead over the horizon, `(batch, horizon, features)`, or None."""
        return None if self.known is None else self.known[:, self.shape.input_size :, :]


@dataclass(frozen=True)
class Decoded:
    """What a decoder returns.

    Args:
        rows: what the head reads, `(batch, rows, units)`.
        steps_per_row: how many steps of the horizon each row is read for.
        attention: the weight of each encoded step for each step of the horizon, `(batch, horizon, steps)`, or None.
    """

    rows: Array
    steps_per_row: int
    attention: Array | None = None


class Decoder(Config):
    """Base class of decoders.

    Class attributes:
        topology: the name of this way from inputs to outputs.
        answers_each_step: whether each input step forecasts its own next `horizon` values. The loss then covers all
            steps, and the last step is the forecast.
    """

    topology: ClassVar[str]
    answers_each_step: ClassVar[bool] = False

    @property
    def attends(self) -> bool:
        """Return whether `decode` returns attention weights."""
        return False

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return what the head reads."""
        raise NotImplementedError

    def targets(self, windows: Windows, index: Any) -> Floats:
        """Return the raw targets of the windows in `index`, `(n, horizon)` or `(n, input_size, horizon)`."""
        return windows.targets_each_step(index) if self.answers_each_step else windows.targets(index)

    def last(self, outputs: Any) -> Any:
        """Return the forecast's part `(batch, horizon, …)` of the network's outputs."""
        return outputs[:, -1, ...] if self.answers_each_step else outputs


class Last(Decoder):
    """The head reads the whole horizon from what the encoder knows after the last step."""

    kind: Literal["last"] = "last"
    topology: ClassVar[str] = "many_to_one"

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return one row for all steps."""
        shape, parts = inputs.shape, [inputs.encoded.last]
        if inputs.ahead is not None:
            parts.append(tape.reshape(inputs.ahead, (-1, shape.horizon * shape.known)))
        if inputs.context is not None:
            parts.append(inputs.context)
        return Decoded(tape.concat(parts)[:, None, :], shape.horizon)


class EachStep(Decoder):
    """The head reads the next `horizon` values of each input step from the encoder's output at this step."""

    kind: Literal["each_step"] = "each_step"
    topology: ClassVar[str] = "many_to_many"
    answers_each_step: ClassVar[bool] = True

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return a row for each input step."""
        shape, parts = inputs.shape, [inputs.encoded.sequence]
        if inputs.known is not None:
            parts += [inputs.known[:, step : step + shape.input_size, :] for step in range(1, shape.horizon + 1)]
        if inputs.context is not None:
            parts.append(tape.repeat(inputs.context, shape.input_size))
        return Decoded(tape.concat(parts), shape.horizon)


class Repeat(Decoder):
    """A recurrent layer reads what the encoder knows after the last step again at each step of the horizon.

    Source: Cho et al. (2014), arXiv 1406.1078, section 2.2.
    """

    kind: Literal["repeat"] = "repeat"
    topology: ClassVar[str] = "one_to_many"

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return a row for each step."""
        encoded, horizon = inputs.encoded, inputs.shape.horizon
        parts = [tape.repeat(encoded.last, horizon)]
        if inputs.ahead is not None:
            parts.append(inputs.ahead)
        if inputs.context is not None:
            parts.append(tape.repeat(inputs.context, horizon))
        rows, _ = tape.recur("decoder", inputs.cell, tape.concat(parts), encoded.width)
        return Decoded(tape.dropout(rows, inputs.encoder.dropout), 1)


class Seq2Seq(Decoder):
    """A recurrent layer continues from the encoder's states over the horizon, and may attend to the encoded steps.

    It reads each step's position in the horizon, not its own forecast, so errors do not add up and no loop is needed.

    Sources: Sutskever, Vinyals & Le (2014), arXiv 1409.3215; additive attention: Bahdanau, Cho & Bengio (2015),
    arXiv 1409.0473, appendix A.1.2; multiplicative attention: Luong, Pham & Manning (2015), arXiv 1508.04025,
    equations 7 (`general`) and 8.
    """

    kind: Literal["seq2seq"] = "seq2seq"
    attention: Literal["none", "additive", "multiplicative"] = "none"
    topology: ClassVar[str] = "sequence_to_sequence"

    @property
    def attends(self) -> bool:
        """Return whether the decoder attends to the encoded steps."""
        return self.attention != "none"

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return a row for each step."""
        encoded, horizon = inputs.encoded, inputs.shape.horizon
        parts = [tape.embed("position", tape.positions(encoded.last, horizon), horizon, encoded.width)]
        if inputs.ahead is not None:
            parts.append(inputs.ahead)
        if inputs.context is not None:
            parts.append(tape.repeat(inputs.context, horizon))
        rows, _ = tape.recur("decoder", inputs.cell, tape.concat(parts), encoded.width, initial=encoded.states)
        rows, weights = tape.dropout(rows, inputs.encoder.dropout), None
        if self.attends:
            weights = tape.softmax(self._scores(tape, rows, encoded))
            context = tape.matmul(weights, encoded.sequence)
            rows = tape.dense("attention", tape.concat([context, rows]), encoded.width, activation="tanh")
        return Decoded(rows, 1, weights)

    def _scores(self, tape: Tape, rows: Array, encoded: Encoded) -> Array:
        """Return how well each encoded step matches each row, `(batch, rows, steps)`."""
        query = tape.dense("attention_query", rows, encoded.width)
        if self.attention == "multiplicative":
            return tape.matmul(query, tape.permute(encoded.sequence, (0, 2, 1)))
        keys = tape.dense("attention_key", encoded.sequence, encoded.width)
        joined = tape.tanh(query[:, :, None, :] + keys[:, None, :, :])
        return tape.dense("attention_score", joined, 1)[:, :, :, 0]


class SegmentParallel(Decoder):
    """The encoder's last layer takes one more step for each segment of the horizon, for all segments at once.

    Each step starts from the encoder's states and reads the segment's position. Source: Lin et al. (2023),
    arXiv 2308.11200, section 3.2.
    """

    kind: Literal["segment_parallel"] = "segment_parallel"
    topology: ClassVar[str] = "segment_parallel"

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return a row for each segment."""
        encoded, shape, encoder = inputs.encoded, inputs.shape, inputs.encoder
        length, widths = encoder.segment_length, (encoder.widths[0], *encoder.widths)
        segments, width, units = shape.horizon // length, widths[len(encoder.widths) - 1], encoder.widths[-1]
        query = tape.embed("position", tape.positions(encoded.last, segments), segments, width)
        if inputs.context is not None:
            query = query + tape.repeat(tape.dense("query_context", inputs.context, width), segments)
        if inputs.ahead is not None:
            folded = tape.reshape(inputs.ahead, (-1, segments, length * shape.known))
            query = query + tape.dense("query_ahead", folded, width)
        initial = tuple(tape.reshape(tape.repeat(state, segments), (-1, units)) for state in encoded.states)
        layer = f"encoder_{len(encoder.widths) - 1}"
        rows, _ = tape.recur(layer, inputs.cell, tape.reshape(query, (-1, 1, width)), units, initial=initial)
        rows = tape.dropout(tape.reshape(rows, (-1, segments, units)), encoder.dropout)
        return Decoded(rows, length)


# `last` is short for `{kind: last}`
AnyDecoder = Annotated[
    Annotated[Last | EachStep | Repeat | Seq2Seq | SegmentParallel, Field(discriminator="kind")],
    short_for("kind"),
]
