"""A made-up decoder: the head reads what the encoder knows after the first step and after the last."""

from typing import ClassVar, Literal

from forecaster.models.decoders import Decoded, Decoder, DecoderInputs
from forecaster.models.tape import Tape


class Ends(Decoder):
    """The head reads the encoder's outputs at both ends of the window."""

    kind: Literal["ends"] = "ends"
    topology: ClassVar[str] = "ends_to_one"

    def decode(self, tape: Tape, inputs: DecoderInputs) -> Decoded:
        """Return one row for all steps."""
        rows = tape.concat([inputs.encoded.sequence[:, 0, :], inputs.encoded.last])
        return Decoded(rows[:, None, :], inputs.shape.horizon)
