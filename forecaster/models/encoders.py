"""The encoder: a stack of recurrent layers that reads the inputs."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.models.tape import Array, States, Tape

# two layers of 4096 LSTM units have 800 MB of weights
Width = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns.

    Args:
        sequence: the outputs at each step or segment, `(batch, steps, units)`.
        last: what it knows after the last step, `(batch, units)`.
        states: the last layer's states, `(batch, units)` each; the hidden state includes the residual.
        steps: number of steps or segments.
        width: the last axis of these arrays.
    """

    sequence: Array
    last: Array
    states: States
    steps: int
    width: int


class Encoder(Config):
    """A stack of recurrent layers.

    Args:
        widths: the units of each layer.
        bidirectional: whether each layer also reads the window backwards, and joins both outputs; Schuster & Paliwal
            (1997), doi:10.1109/78.650093.
        residual: whether each layer but the first adds its input to its output; Prakash et al. (2016),
            arXiv 1610.03098, equation 2.
        dilations: for each layer, the distance in steps to the state that it continues from; empty for 1. Chang et
            al. (2017), arXiv 1710.02224, equation 2.
        segment_length: rows that are folded into a step by a dense layer with ReLU; 1 folds none. Lin et al. (2023),
            arXiv 2308.11200, section 3.1.
        dropout: the share of each layer's outputs that training drops.
        recurrent_dropout: the share of each layer's recurrent inputs that training drops; Gal & Ghahramani (2016),
            arXiv 1512.05287, section 4.2.
    """

    widths: tuple[Width, ...] = Field((32,), min_length=1, max_length=16)
    bidirectional: bool = False
    residual: bool = False
    dilations: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field((), max_length=16)
    segment_length: int = Field(1, ge=1, le=100_000)
    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0

    def encode(self, tape: Tape, cell: str, x: Array, steps: int) -> Encoded:
        """Return the encoding of `x (batch, steps, inputs)`."""
        if self.segment_length > 1:
            steps //= self.segment_length
            folded = tape.reshape(x, (-1, steps, self.segment_length * x.shape[-1]))
            x = tape.dense("segment", folded, self.widths[0], activation="relu")
        encoded = Encoded(x, x[:, -1, :], (), steps, int(x.shape[-1]))
        for number, units in enumerate(self.widths):
            encoded = self._layer(tape, cell, encoded, number, units)
        return encoded

    def _layer(self, tape: Tape, cell: str, before: Encoded, number: int, units: int) -> Encoded:
        name, dilation = f"encoder_{number}", self.dilations[number] if self.dilations else 1
        after = self._read(tape, name, cell, before, units, dilation)
        if self.bidirectional:
            back = self._read(tape, f"{name}_backwards", cell, before, units, dilation, is_reversed=True)
            after = Encoded(
                tape.concat([after.sequence, back.sequence]),
                tape.concat([after.last, back.last]),
                tuple(tape.concat([state, other]) for state, other in zip(after.states, back.states, strict=True)),
                before.steps,
                2 * units,
            )
        if self.residual and number:
            skip, last = before.sequence, before.last
            if before.width != after.width:
                skip = tape.dense(f"{name}_skip", skip, after.width)
                last = tape.dense(f"{name}_skip", last, after.width)
            hidden, *others = after.states
            after = replace(
                after, sequence=after.sequence + skip, last=after.last + last, states=(hidden + last, *others)
            )
        return replace(
            after, sequence=tape.dropout(after.sequence, self.dropout), last=tape.dropout(after.last, self.dropout)
        )

    def _read(
        self,
        tape: Tape,
        name: str,
        cell: str,
        before: Encoded,
        units: int,
        dilation: int,
        is_reversed: bool = False,
    ) -> Encoded:
        recur = partial(tape.recur, name, cell, units=units, is_reversed=is_reversed, dropout=self.recurrent_dropout)
        x, steps = before.sequence, before.steps
        if dilation == 1:
            sequence, states = recur(x)
            return Encoded(sequence, states[0], states, steps, units)
        # each phase of the dilation is a sequence of its own: (batch · dilation, steps / dilation, inputs)
        phases = tape.permute(tape.reshape(x, (-1, steps // dilation, dilation, before.width)), (0, 2, 1, 3))
        outputs, states = recur(tape.reshape(phases, (-1, steps // dilation, before.width)))
        outputs = tape.permute(tape.reshape(outputs, (-1, dilation, steps // dilation, units)), (0, 2, 1, 3))
        # the phase that read the window's last step, or backwards, its first
        phase = 0 if is_reversed else dilation - 1
        states = tuple(tape.reshape(state, (-1, dilation, units))[:, phase, :] for state in states)
        return Encoded(tape.reshape(outputs, (-1, steps, units)), states[0], states, steps, units)
