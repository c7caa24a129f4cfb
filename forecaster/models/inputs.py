"""The first part of a network: what each step of the encoder, and each step of the horizon, sees."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.models.shape import NetworkShape
from forecaster.models.tape import Array, Tape

# the width of a category's embedding grows with the root of its number of values, up to this
_MOST_CATEGORY_WIDTH = 16


class InputConfig(Config):
    """How a network reads its inputs.

    Args:
        channels: `mixed`: each step sees the target and all `hist_exog` columns together. `shared`: the same encoder
            reads each column by itself, and the decoder sees the results side by side.
        series_embedding: the width of the vector that is learned for each series; 0 learns none. A series that was
            not trained on gets the vector of the unknown series.
    """

    channels: Literal["mixed", "shared"] = "mixed"
    series_embedding: int = Field(0, ge=0, le=1024)


@dataclass(frozen=True)
class NetworkInputs:
    """The tensors that enter a network, transformed; None for what it does not take.

    Args:
        x: the target and `hist_exog`, `(batch, input_size, values)`.
        known: the columns known ahead, `(batch, input_size + horizon, known)`.
        numbers: static numbers, `(batch, numbers)`.
        codes: the positions of the series, if it is embedded, and of each static category, `(batch, codes)`, integers.
    """

    x: Array
    known: Array | None = None
    numbers: Array | None = None
    codes: Array = None


def context_of(tape: Tape, config: InputConfig, shape: NetworkShape, inputs: NetworkInputs) -> Array | None:
    """Return what describes the series as a whole, `(batch, width)`; None if nothing does."""
    parts = [] if inputs.numbers is None else [inputs.numbers]
    sizes = ([(shape.n_series, config.series_embedding)] if shape.n_series else []) + [
        (size, min(_MOST_CATEGORY_WIDTH, 1 + round(size**0.5))) for size in shape.categories
    ]
    for position, (size, width) in enumerate(sizes):
        parts.append(tape.embed(f"embedding_{position}", inputs.codes[:, position], size, width))
    return tape.concat(parts) if parts else None


def steps_of(
    tape: Tape, config: InputConfig, shape: NetworkShape, inputs: NetworkInputs, context: Array | None
) -> Array:
    """Return what the encoder reads, `(batch, input_size, width)`; with shared channels, `(batch · values, …)`."""
    shared = [] if inputs.known is None else [inputs.known[:, : shape.input_size, :]]
    if context is not None:
        shared.append(tape.repeat(context, shape.input_size))
    if config.channels == "mixed" or shape.values == 1:
        return tape.concat([inputs.x, *shared])
    channels = tape.permute(inputs.x, (0, 2, 1))[..., None]
    repeated = [tape.repeat(part, shape.values) for part in shared]
    joined = tape.concat([channels, *repeated])
    return tape.reshape(joined, (-1, shape.input_size, joined.shape[-1]))
