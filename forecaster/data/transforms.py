"""Transforms of the target, fitted on training windows, with an exact inverse.

All methods use the array API, so the same code runs on numpy arrays in training and traces into the served ONNX graph.
Inputs are `(batch, time)`. Targets are `(batch, horizon)`, or `(batch, time, horizon)` for networks that forecast at
each step. A context broadcasts against the targets. All arithmetic is in float64, because subtracting values near 7e5
in float32 loses 4e-2.

Missing values are NaN and stay so. If a chain is masked, its statistics are those of the observed values; a target
whose context has no observed value is missing too.

A causal transform uses only values up to step t at step t. Other transforms may use the whole window, which precedes
the forecast.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from forecaster.data.moments import (
    Array,
    first_observed,
    moments,
    observed_moments,
    observed_running_moments,
    running_moments,
)
from forecaster.domain.config import Config
from forecaster.domain.errors import SeriesError
from forecaster.domain.missing import fill_forward
from forecaster.domain.series import Floats

Context = tuple[Array, ...]


class Transform(Config):
    """Base class of transforms; the fields are the fitted parameters."""

    def fit(self, chunks: Iterable[Floats]) -> "Transform":
        """Return the transform fitted to chunks of windows `(n, time)`."""
        return self

    def check(self, values: Floats, where: str) -> None:
        """Raise SeriesError if a value is outside the transform's domain."""

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        """Return the transformed inputs, and the context for `targets` and `inverse`.

        Args:
            x: `(batch, time)`.
            is_causal: whether step t must not use later values.
            is_masked: whether values may be missing.
        """
        raise NotImplementedError

    def targets(self, y: Array, context: Context) -> Array:
        """Return the transformed targets."""
        raise NotImplementedError

    def inverse(self, z: Array, context: Context) -> Array:
        """Invert `targets`."""
        raise NotImplementedError


class Affine(Transform):
    """`z = (x - offset) / scale`, with parameters fitted to the training windows."""

    offset: float | None = None
    scale: float | None = None

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        return (x - self.offset) / self.scale, ()

    def targets(self, y: Array, context: Context) -> Array:
        return (y - self.offset) / self.scale

    def inverse(self, z: Array, context: Context) -> Array:
        return z * self.scale + self.offset


class Standardize(Affine):
    """Scale to mean 0 and standard deviation 1 over the training windows; a constant is only centred."""

    kind: Literal["standardize"] = "standardize"

    def fit(self, chunks: Iterable[Floats]) -> "Standardize":
        """Merge each chunk's mean and squared deviations. Source: Chan, Golub, LeVeque (1979), eq. 2.1."""
        count, mean, squares = 0, 0.0, 0.0
        for chunk in _observed(chunks):
            difference = float(chunk.mean()) - mean
            total = count + chunk.size
            squares += float(chunk.var()) * chunk.size + difference**2 * count * chunk.size / total
            mean += difference * chunk.size / total
            count = total
        deviation = float(np.sqrt(squares / count))
        # a constant's deviation is 0 up to rounding
        return Standardize(offset=mean, scale=deviation if deviation > 1e-12 * abs(mean) else 1.0)


class MinMax(Affine):
    """Scale to 0 at the minimum and 1 at the maximum of the training windows."""

    kind: Literal["min_max"] = "min_max"

    def fit(self, chunks: Iterable[Floats]) -> "MinMax":
        least, greatest = np.inf, -np.inf
        for chunk in _observed(chunks):
            least, greatest = min(least, float(chunk.min())), max(greatest, float(chunk.max()))
        return MinMax(offset=least, scale=(greatest - least) or 1.0)


class Log(Transform):
    """`z = log(x)`, for values above 0 such as prices."""

    kind: Literal["log"] = "log"

    def check(self, values: Floats, where: str) -> None:
        rows = np.flatnonzero(values <= 0)
        if len(rows):
            raise SeriesError(
                f"{where}, row {rows[0]}: y is {values[rows[0]]:g}, but transforms: log needs values above 0; "
                "correct the row or remove the log transform"
            )

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        return x.__array_namespace__().log(x), ()

    def targets(self, y: Array, context: Context) -> Array:
        return y.__array_namespace__().log(y)

    def inverse(self, z: Array, context: Context) -> Array:
        return z.__array_namespace__().exp(z)


class Log1p(Transform):
    """`z = log(1 + x)`, for values of 0 and above such as counts."""

    kind: Literal["log1p"] = "log1p"

    def check(self, values: Floats, where: str) -> None:
        rows = np.flatnonzero(values < 0)
        if len(rows):
            raise SeriesError(
                f"{where}, row {rows[0]}: the value is {values[rows[0]]:g}, but transforms: log1p needs values of 0 "
                "and above; correct the row or remove the log1p transform"
            )

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        return x.__array_namespace__().log(x + 1), ()

    def targets(self, y: Array, context: Context) -> Array:
        return y.__array_namespace__().log(y + 1)

    def inverse(self, z: Array, context: Context) -> Array:
        return z.__array_namespace__().exp(z) - 1


class Difference(Transform):
    """Difference to the previous value; the first difference of a window is 0, because it has no previous value."""

    kind: Literal["difference"] = "difference"

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        xp = x.__array_namespace__()
        before = xp.concat([x[:, :1], x[:, :-1]], axis=1)
        return x - before, (_last(x, is_causal),)

    def targets(self, y: Array, context: Context) -> Array:
        (last,) = context
        return y - y.__array_namespace__().concat([last, y[..., :-1]], axis=-1)

    def inverse(self, z: Array, context: Context) -> Array:
        (last,) = context
        return last + z.__array_namespace__().cumulative_sum(z, axis=-1)


class LastValue(Transform):
    """Difference to the last value of the window; in causal inputs, to its first value."""

    kind: Literal["last_value"] = "last_value"

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        past = fill_forward(x) if is_masked else x
        first = first_observed(x) if is_masked else x[:, :1]
        return x - (first if is_causal else past[:, -1:]), (_last(past, is_causal),)

    def targets(self, y: Array, context: Context) -> Array:
        return y - context[0]

    def inverse(self, z: Array, context: Context) -> Array:
        return z + context[0]


class LastSeason(Transform):
    """Difference to the value one season before; the first season of a window is 0, because it has none before it.

    A target is the difference to the same phase of the window's last season, however long the horizon: a forecast of 0
    is the seasonal naive forecast. Source: Hyndman & Athanasopoulos (2021), Forecasting: Principles and Practice, 5.2
    and 9.1.

    Args:
        season: the rows of a season, fewer than a window has.
    """

    kind: Literal["last_season"] = "last_season"
    season: int = Field(ge=2, le=100_000)

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        xp = x.__array_namespace__()
        before = xp.concat([x[:, : self.season], x[:, : -self.season]], axis=1)
        return x - before, (x[:, -self.season :],)

    def targets(self, y: Array, context: Context) -> Array:
        return y - self._repeated(context, y.shape[-1])

    def inverse(self, z: Array, context: Context) -> Array:
        return z + self._repeated(context, z.shape[-1])

    def _repeated(self, context: Context, horizon: int) -> Array:
        """Return the last season again and again, `(batch, horizon)`."""
        (last,) = context
        times = -(-horizon // self.season)
        return last.__array_namespace__().concat([last] * times, axis=1)[:, :horizon]


class MeanStd(Transform):
    """Standardize by the window's mean and standard deviation; if causal, by those of the values up to each step."""

    kind: Literal["mean_std"] = "mean_std"

    def forward(self, x: Array, is_causal: bool, is_masked: bool = False) -> tuple[Array, Context]:
        if is_masked:
            mean, deviation = observed_running_moments(x) if is_causal else observed_moments(x)
        else:
            mean, deviation = running_moments(x) if is_causal else moments(x)
        context = (mean[..., None], deviation[..., None]) if is_causal else (mean, deviation)
        return (x - mean) / deviation, context

    def targets(self, y: Array, context: Context) -> Array:
        mean, deviation = context
        return (y - mean) / deviation

    def inverse(self, z: Array, context: Context) -> Array:
        mean, deviation = context
        return z * deviation + mean


AnyTransform = Annotated[
    Standardize | MinMax | Log | Log1p | Difference | LastValue | LastSeason | MeanStd, Field(discriminator="kind")
]


def _log_comes_first(steps: tuple[AnyTransform, ...]) -> tuple[AnyTransform, ...]:
    for step in steps[1:]:
        if isinstance(step, Log | Log1p):
            raise ValueError(f"{step.kind} must come first, because other transforms may return values below 0")
    return steps


Transforms = Annotated[tuple[AnyTransform, ...], AfterValidator(_log_comes_first)]


class Chain(Config):
    """Transforms applied in order.

    Args:
        steps: the transforms.
        is_causal: whether the network forecasts at each step, so that step t must not use later values.
        is_masked: whether values may be missing, which are NaN.
    """

    steps: Transforms
    is_causal: bool
    is_masked: bool = False

    def fit(self, chunks: Callable[[], Iterable[Floats]]) -> "Chain":
        """Return the chain fitted to windows `(n, time)`; each call of `chunks` yields all of them in chunks."""
        fitted = self.model_copy(update={"steps": ()})
        for step in self.steps:
            before = fitted
            fitted_step = step.fit(before.forward(chunk)[0] for chunk in chunks())
            fitted = self.model_copy(update={"steps": (*before.steps, fitted_step)})
        return fitted

    def check(self, values: Floats, where: str) -> None:
        """Raise SeriesError if a raw value is outside the domain of the first transform."""
        for step in self.steps[:1]:
            step.check(values, where)

    def forward(self, x: Array) -> tuple[Array, tuple[Context, ...]]:
        """Return the network's inputs `(batch, time)` and the context of each transform."""
        contexts = []
        for step in self.steps:
            x, context = step.forward(x, self.is_causal, self.is_masked)
            contexts.append(context)
        return x, tuple(contexts)

    def targets(self, y: Array, contexts: tuple[Context, ...]) -> Array:
        """Return the network's targets, in the shape of `y`."""
        for step, context in zip(self.steps, contexts, strict=True):
            y = step.targets(y, context)
        return y

    def inverse(self, z: Array, contexts: tuple[Context, ...], *, with_exp: bool = True) -> Array:
        """Convert the network's outputs to raw values, in the shape of `z`; to their logarithms unless `with_exp`."""
        for step, context in zip(reversed(self.steps), reversed(contexts), strict=True):
            if with_exp or not isinstance(step, Log):
                z = step.inverse(z, context)
        return z

    def last_contexts(self, contexts: tuple[Context, ...]) -> tuple[Context, ...]:
        """Return the contexts of the window's last step, from which a forecast starts."""
        if not self.is_causal:
            return contexts
        return tuple(tuple(array[:, -1, :] for array in context) for context in contexts)

    @property
    def needs_positive(self) -> bool:
        """Whether raw values must be above 0."""
        return any(isinstance(step, Log) for step in self.steps)

    @property
    def warm_up(self) -> float:
        """Return the first share of a window, whose causal statistics use too few values for training."""
        return 0.25 if self.is_causal and any(isinstance(step, MeanStd) for step in self.steps) else 0.0


def _observed(chunks: Iterable[Floats]) -> Iterator[Floats]:
    """Yield the observed values of each chunk that has any.

    Raises:
        SeriesError: no chunk has any.
    """
    is_empty = True
    for chunk in chunks:
        is_missing = np.isnan(chunk)
        observed = chunk[~is_missing] if is_missing.any() else chunk
        if observed.size:
            is_empty = False
            yield observed
    if is_empty:
        raise SeriesError(
            "no value is observed in the rows that a network is fitted on: the train part, its first rows in a fold, "
            "or its last rows in the leakage audit; remove the column, or the rows in which it is missing"
        )


def _last(x: Array, is_causal: bool) -> Array:
    return x[..., None] if is_causal else x[:, -1:]
