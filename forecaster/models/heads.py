"""Heads: from what the decoder returns to a forecast or its distribution. Add a head to `AnyHead`.

A head owns its loss, its outputs in the served graph, and a numpy half that turns these outputs into quantiles. Serving
processes import this module, so Keras is imported where it is used.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from forecaster.domain.config import Config, short_for
from forecaster.domain.series import MEAN, Floats
from forecaster.evaluation.conformal import PROBABILITIES
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.tape import Array, Tape

# maps network outputs to raw values of the same shape; `with_exp=False` leaves out the final exponential
Inverse = Callable[..., Array]
PointLoss = Literal["mean_squared_error", "mean_absolute_error", "huber"]
# keeps a scale above 0 in float32
_LEAST_SCALE = 1e-4
# with two degrees of freedom or fewer, the variance is infinite
_LEAST_DF = 2.0


class Head(Config):
    """Base class of heads.

    Class attributes:
        output: the name of the graph's output that holds the distribution's parameters; None if there is none.
        sums_steps: whether the forecast of a sum of steps is the sum of their forecasts, as `difference` assumes.
    """

    output: ClassVar[str | None] = None
    sums_steps: ClassVar[bool] = False

    @property
    def n_parameters(self) -> int:
        """Return the number of parameters of each step."""
        raise NotImplementedError

    def parameters(self, tape: Tape, raw: Array) -> Array:
        """Return the parameters `(…, n_parameters)` from unrestricted numbers of the same shape."""
        raise NotImplementedError

    def shift(self, tape: Tape, parameters: Array, by: Array) -> Array:
        """Return the parameters `(…, n_parameters)` of the distribution moved by `by` `(…)`."""
        raise NotImplementedError

    def losses(self, actual: Array, parameters: Array) -> Array:
        """Return the loss of each step, `(…)`, in Keras's operations.

        Args:
            actual: transformed actuals, `(…)`.
            parameters: `(…, n_parameters)`.
        """
        raise NotImplementedError

    def times_worse(self, loss: float, other: float) -> float:
        """Return how many times larger a mean loss is than another one, or than 1 if that is smaller."""
        return loss / max(other, 1.0)

    def outputs(self, parameters: Array, inverse: Inverse) -> dict[str, Array]:
        """Return the outputs of the served graph, raw values: `mean (batch, horizon)` first, then `output`.

        Args:
            parameters: of the transformed values, `(batch, horizon, n_parameters)`, float64, of any array API.
            inverse: returns transformed values `(batch, …)` as raw values.
        """
        raise NotImplementedError

    def quantiles(self, outputs: Mapping[str, Floats], probabilities: Floats, is_positive: bool) -> Floats:
        """Return quantiles `(batch, horizon, len(probabilities))` from the served graph's outputs.

        Args:
            outputs: as `outputs` returns them.
            probabilities: 0–1, exclusive, increasing.
            is_positive: whether the transforms begin with a logarithm.
        """
        raise NotImplementedError

    def forecasts(self, outputs: Mapping[str, Floats], is_positive: bool) -> Forecasts:
        """Return the served graph's outputs as forecasts; the arguments are those of `quantiles`."""
        mean = outputs[MEAN]
        if self.output is None:
            return Forecasts(mean)
        return Forecasts(mean, self.quantiles(outputs, np.array(PROBABILITIES), is_positive) - mean[..., None])

    def output_shapes(self, horizon: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output, without the batch axis."""
        shapes: dict[str, tuple[int, ...]] = {MEAN: (horizon,)}
        return shapes if self.output is None else shapes | {self.output: (horizon, self.n_parameters)}


class Point(Head):
    """The head returns one number for each step.

    Args:
        loss: what the fit minimizes; `mean_absolute_error` makes it a forecast of the median.
    """

    kind: Literal["point"] = "point"
    loss: PointLoss = "mean_squared_error"
    sums_steps: ClassVar[bool] = True

    @property
    def n_parameters(self) -> int:
        """Return 1."""
        return 1

    def parameters(self, tape: Tape, raw: Array) -> Array:
        """Return `raw`."""
        return raw

    def shift(self, tape: Tape, parameters: Array, by: Array) -> Array:
        """Return the sum."""
        return parameters + by[..., None]

    def losses(self, actual: Array, parameters: Array) -> Array:
        """Return the squared, the absolute or the Huber error with a threshold of 1."""
        from keras import ops

        error = ops.abs(actual - parameters[..., 0])
        if self.loss == "mean_squared_error":
            return error * error
        if self.loss == "mean_absolute_error":
            return error
        return ops.where(error <= 1, 0.5 * error * error, error - 0.5)

    def outputs(self, parameters: Array, inverse: Inverse) -> dict[str, Array]:
        """Return `mean`."""
        return {MEAN: inverse(parameters[..., 0])}

    def quantiles(self, outputs: Mapping[str, Floats], probabilities: Floats, is_positive: bool) -> Floats:
        """Return the mean for each probability: a point has no distribution."""
        return np.broadcast_to(outputs[MEAN][..., None], (*outputs[MEAN].shape, len(probabilities)))


def _increases(probabilities: tuple[float, ...]) -> tuple[float, ...]:
    if list(probabilities) != sorted(set(probabilities)) or 0.5 not in probabilities[1:-1]:
        raise ValueError("must increase, with 0.5, whose quantile is the forecast, between others")
    return probabilities


class Quantile(Head):
    """The head returns quantiles, which cannot cross: each is the one below plus a positive number.

    `mean` is the median. Between the probabilities, and beyond them, quantiles are interpolated on the scale of a
    normal distribution.

    Sources: Koenker & Bassett (1978), doi:10.2307/1913643, for the loss; Gasthaus et al. (2019), PMLR 89, section 3.1,
    for quantiles as sums of positive numbers.

    Args:
        probabilities: 0–1, exclusive, increasing, with .5 among them.
    """

    kind: Literal["quantile"] = "quantile"
    probabilities: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], AfterValidator(_increases), Field(min_length=3, max_length=99)
    ] = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
    output: ClassVar[str | None] = "quantiles"

    @property
    def n_parameters(self) -> int:
        """Return the number of quantiles."""
        return len(self.probabilities)

    @property
    def _median(self) -> int:
        return self.probabilities.index(0.5)

    def parameters(self, tape: Tape, raw: Array) -> Array:
        """Return increasing quantiles: the median, and sums of positive distances to both sides of it.

        A sum of positive numbers cannot decrease, whatever the rounding, so neither can its neighbours cross.
        """
        at = self._median
        middle, distances = raw[..., at : at + 1], tape.softplus(raw)
        above = middle + tape.cumulative_sum(distances[..., at + 1 :])
        # from the median outwards
        below = middle - tape.cumulative_sum(distances[..., :at])
        increasing = [below[..., number : number + 1] for number in reversed(range(at))]
        return tape.concat([*increasing, middle, above])

    def shift(self, tape: Tape, parameters: Array, by: Array) -> Array:
        """Return all quantiles moved."""
        return parameters + by[..., None]

    def losses(self, actual: Array, parameters: Array) -> Array:
        """Return the pinball loss, the mean over the probabilities."""
        from keras import ops

        below = actual[..., None] - parameters
        levels = np.array(self.probabilities, dtype=np.float32)
        return ops.mean(ops.maximum(levels * below, (levels - 1) * below), axis=-1)

    def outputs(self, parameters: Array, inverse: Inverse) -> dict[str, Array]:
        """Return `mean` and `quantiles (batch, horizon, probabilities)`."""
        xp, horizon, count = parameters.__array_namespace__(), parameters.shape[1], self.n_parameters
        raw = xp.reshape(inverse(xp.reshape(parameters, (-1, horizon * count))), (-1, horizon, count))
        return {MEAN: raw[..., self._median], "quantiles": raw}

    def quantiles(self, outputs: Mapping[str, Floats], probabilities: Floats, is_positive: bool) -> Floats:
        """Return interpolated quantiles."""
        return interpolate_quantiles(outputs["quantiles"], np.array(self.probabilities), probabilities)


class StudentT(Head):
    """The head returns the location, scale and degrees of freedom of a Student-t distribution; `mean` is its location.

    After a logarithm, the distribution is that of the logarithms, and `mean` is the median.

    Source: Salinas et al. (2020), arXiv 1704.04110, section 3.1, for a likelihood as the loss of a recurrent network.
    """

    kind: Literal["student_t"] = "student_t"
    output: ClassVar[str | None] = "student_t"

    @property
    def n_parameters(self) -> int:
        """Return 3."""
        return 3

    def parameters(self, tape: Tape, raw: Array) -> Array:
        """Return the location, a positive scale, and degrees of freedom above 2."""
        scale = tape.softplus(raw[..., 1:2]) + _LEAST_SCALE
        return tape.concat([raw[..., :1], scale, tape.softplus(raw[..., 2:]) + _LEAST_DF])

    def shift(self, tape: Tape, parameters: Array, by: Array) -> Array:
        """Return the parameters with the location moved."""
        return tape.concat([parameters[..., :1] + by[..., None], parameters[..., 1:]])

    def losses(self, actual: Array, parameters: Array) -> Array:
        """Return the negative logarithm of the likelihood."""
        from keras import ops

        location, scale, df = parameters[..., 0], parameters[..., 1], parameters[..., 2]
        z = (actual - location) / scale
        normalizer = 0.5 * ops.log(df * math.pi) - _log_gamma_ratio(df / 2) + ops.log(scale)
        return normalizer + (df + 1) / 2 * ops.log(1 + z * z / df)

    def times_worse(self, loss: float, other: float) -> float:
        """Return the ratio of the likelihoods, because this loss is a logarithm."""
        return math.exp(min(loss - max(other, 0.0), 100.0))

    def outputs(self, parameters: Array, inverse: Inverse) -> dict[str, Array]:
        """Return `mean`, and `student_t (batch, horizon, 3)`, the parameters before the exponential of a logarithm."""
        xp = parameters.__array_namespace__()
        location, scale = parameters[..., 0], parameters[..., 1]
        centre = inverse(location, with_exp=False)
        # the other transforms are affine
        spread = inverse(scale, with_exp=False) - inverse(scale * 0, with_exp=False)
        raw = xp.concat([centre[..., None], spread[..., None], parameters[..., 2:]], axis=-1)
        return {MEAN: inverse(location), "student_t": raw}

    def quantiles(self, outputs: Mapping[str, Floats], probabilities: Floats, is_positive: bool) -> Floats:
        """Return quantiles of the distribution."""
        from scipy.special import stdtrit

        location, scale, df = np.moveaxis(outputs["student_t"][..., None], -2, 0)
        found = location + scale * stdtrit(df, probabilities)
        return np.asarray(np.exp(found) if is_positive else found)


def _log_gamma_ratio(x: Array) -> Array:
    """Return `log(Γ(x + 1/2) / Γ(x))` for `x` above 1, in Keras's operations, within 1e-6.

    Source: Tricomi & Erdélyi (1951), doi:10.2140/pjm.1951.1.133, for the series, at `x + 4`.
    """
    from keras import ops

    shifted = x + 4
    series = 0.5 * ops.log(shifted) - 1 / (8 * shifted) + 1 / (192 * shifted**3) - 1 / (640 * shifted**5)
    return series - sum(ops.log((x + step + 0.5) / (x + step)) for step in range(4))


@cache
def _normal_scale(probabilities: tuple[float, ...]) -> Floats:
    return np.array([NormalDist().inv_cdf(p) for p in probabilities])


def interpolate_quantiles(quantiles: Floats, grid: Floats, probabilities: Floats) -> Floats:
    """Return quantiles at other probabilities, linear on the scale of a normal distribution.

    Args:
        quantiles: increasing, `(…, len(grid))`.
        grid: their probabilities, increasing.
        probabilities: 0–1, exclusive, `(n,)`; beyond the grid, the outermost two quantiles are extended.

    Returns:
        `(…, n)`.
    """
    known, wanted = _normal_scale(tuple(grid.tolist())), _normal_scale(tuple(probabilities.tolist()))
    right = np.clip(np.searchsorted(known, wanted), 1, len(known) - 1)
    weight = (wanted - known[right - 1]) / (known[right] - known[right - 1])
    before, after = quantiles[..., right - 1], quantiles[..., right]
    return np.asarray(before + weight * (after - before))


# `quantile` is short for `{kind: quantile}`
AnyHead = Annotated[
    Annotated[Point | Quantile | StudentT, Field(discriminator="kind")],
    short_for("kind"),
]
