"""A made-up head: the location and scale of a Laplace distribution."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from forecaster.domain.series import MEAN, Floats
from forecaster.models.heads import Head, Inverse
from forecaster.models.tape import Array, Tape


class Laplace(Head):
    """The head returns the location and scale of a Laplace distribution; `mean` is its location."""

    kind: Literal["laplace"] = "laplace"
    output: ClassVar[str | None] = "laplace"

    @property
    def n_parameters(self) -> int:
        """Return 2."""
        return 2

    def parameters(self, tape: Tape, raw: Array) -> Array:
        """Return the location and a positive scale."""
        return tape.concat([raw[..., :1], tape.softplus(raw[..., 1:]) + 1e-3])

    def shift(self, tape: Tape, parameters: Array, by: Array) -> Array:
        """Return the parameters with the location moved."""
        return tape.concat([parameters[..., :1] + by[..., None], parameters[..., 1:]])

    def losses(self, actual: Array, parameters: Array) -> Array:
        """Return the negative logarithm of the likelihood."""
        from keras import ops

        location, scale = parameters[..., 0], parameters[..., 1]
        return ops.abs(actual - location) / scale + ops.log(2 * scale)

    def outputs(self, parameters: Array, inverse: Inverse) -> dict[str, Array]:
        """Return `mean`, and `laplace (batch, horizon, 2)`."""
        xp = parameters.__array_namespace__()
        location, scale = parameters[..., 0], parameters[..., 1]
        spread = inverse(scale, with_exp=False) - inverse(scale * 0, with_exp=False)
        centre = inverse(location, with_exp=False)
        return {MEAN: inverse(location), "laplace": xp.concat([centre[..., None], spread[..., None]], axis=-1)}

    def quantiles(self, outputs: Mapping[str, Floats], probabilities: Floats, is_positive: bool) -> Floats:
        """Return quantiles of the distribution."""
        location, scale = np.moveaxis(outputs["laplace"][..., None], -2, 0)
        from_median = probabilities - 0.5
        found = location - scale * np.sign(from_median) * np.log1p(-2 * np.abs(from_median))
        return np.asarray(np.exp(found) if is_positive else found)
