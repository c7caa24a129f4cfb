"""Transforms: declared as data, fitted on training windows, exact inverse, one code for numpy and for the served graph.

Every method is written against the array API, so the same lines run on numpy arrays in training and trace into the
ONNX graph that is served. Shapes: inputs `(batch, time)`; targets `(batch, horizon)` after the last step or, where the
network answers at each step, `(batch, time, horizon)`; a context broadcasts against the targets.
All in float64: subtracting large values in float32 would lose 4e-2 at 7e5.

A causal forward uses, at step t, values up to t only; the others may use the whole window, which all lies in the past.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from forecaster.domain.config import Config
from forecaster.domain.errors import SeriesError
from forecaster.domain.series import Floats

# A numpy array in training, a traced one in export: whatever speaks the array API.
Array = Any
Context = tuple[Array, ...]


class Transform(Config):
    """What every transform does; each one below is a name, its fitted numbers and this arithmetic."""

    def fit(self, chunks: Iterable[Floats]) -> "Transform":
        """Return the transform fitted to windows `(n, time)`, given in chunks."""
        return self

    def check(self, values: Floats, where: str) -> None:
        """Raise SeriesError if `values` are outside the transform's domain."""

    def forward(self, x: Array, is_causal: bool) -> tuple[Array, Context]:
        """Return the transformed inputs and the context that targets and outputs need."""
        raise NotImplementedError

    def targets(self, y: Array, context: Context) -> Array:
        """Return the transformed targets."""
        raise NotImplementedError

    def inverse(self, z: Array, context: Context) -> Array:
        """Return the values whose transform is `z`: the exact inverse of `targets`."""
        raise NotImplementedError


class Affine(Transform):
    """`z = (x - offset) / scale`, with numbers learnt from training windows."""

    offset: float | None = None
    scale: float | None = None

    def forward(self, x: Array, is_causal: bool) -> tuple[Array, Context]:
        return (x - self.offset) / self.scale, ()

    def targets(self, y: Array, context: Context) -> Array:
        return (y - self.offset) / self.scale

    def inverse(self, z: Array, context: Context) -> Array:
        return z * self.scale + self.offset


class Standardize(Affine):
    """Mean 0 and standard deviation 1 over the training windows (1 for a constant)."""

    kind: Literal["standardize"] = "standardize"

    def fit(self, chunks: Iterable[Floats]) -> "Standardize":
        """Merge each chunk's mean and squared deviations. Source: Chan, Golub, LeVeque (1979), eq. 2.1."""
        count, mean, squares = 0, 0.0, 0.0
        for chunk in chunks:
            difference = float(chunk.mean()) - mean
            total = count + chunk.size
            squares += float(chunk.var()) * chunk.size + difference**2 * count * chunk.size / total
            mean += difference * chunk.size / total
            count = total
        deviation = float(np.sqrt(squares / count))
        # what rounding leaves of a constant's deviation is none
        return Standardize(offset=mean, scale=deviation if deviation > 1e-12 * abs(mean) else 1.0)


class MinMax(Affine):
    """0 at the training windows' least value and 1 at their greatest."""

    kind: Literal["min_max"] = "min_max"

    def fit(self, chunks: Iterable[Floats]) -> "MinMax":
        least, greatest = np.inf, -np.inf
        for chunk in chunks:
            least, greatest = min(least, float(chunk.min())), max(greatest, float(chunk.max()))
        return MinMax(offset=least, scale=(greatest - least) or 1.0)


class Log(Transform):
    """`z = log(x)`, for values above 0 such as prices."""

    kind: Literal["log"] = "log"

    def check(self, values: Floats, where: str) -> None:
        rows = np.flatnonzero(values <= 0)
        if len(rows):
            raise SeriesError(
                f"{where}, row {rows[0]}: y is {values[rows[0]]:g}, and transforms: log needs values above 0; "
                "correct the row or drop the log"
            )

    def forward(self, x: Array, is_causal: bool) -> tuple[Array, Context]:
        return x.__array_namespace__().log(x), ()

    def targets(self, y: Array, context: Context) -> Array:
        return y.__array_namespace__().log(y)

    def inverse(self, z: Array, context: Context) -> Array:
        return z.__array_namespace__().exp(z)


class Difference(Transform):
    """Each value less the one before it; a window's first difference is 0, for what came before it is not in it."""

    kind: Literal["difference"] = "difference"

    def forward(self, x: Array, is_causal: bool) -> tuple[Array, Context]:
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
    """Values relative to the last known one; the window itself, where causal, relative to its first."""

    kind: Literal["last_value"] = "last_value"

    def forward(self, x: Array, is_causal: bool) -> tuple[Array, Context]:
        return x - (x[:, :1] if is_causal else x[:, -1:]), (_last(x, is_causal),)

    def targets(self, y: Array, context: Context) -> Array:
        return y - context[0]

    def inverse(self, z: Array, context: Context) -> Array:
        return z + context[0]


class MeanStd(Transform):
    """Values relative to the window's mean, in units of its standard deviation; causal ones use each step's past."""

    kind: Literal["mean_std"] = "mean_std"

    def forward(self, x: Array, is_causal: bool) -> tuple[Array, Context]:
        mean, deviation = _running_moments(x) if is_causal else _moments(x)
        context = (mean[..., None], deviation[..., None]) if is_causal else (mean, deviation)
        return (x - mean) / deviation, context

    def targets(self, y: Array, context: Context) -> Array:
        mean, deviation = context
        return (y - mean) / deviation

    def inverse(self, z: Array, context: Context) -> Array:
        mean, deviation = context
        return z * deviation + mean


AnyTransform = Annotated[Standardize | MinMax | Log | Difference | LastValue | MeanStd, Field(discriminator="kind")]


def _log_comes_first(steps: tuple[AnyTransform, ...]) -> tuple[AnyTransform, ...]:
    if any(isinstance(step, Log) for step in steps[1:]):
        raise ValueError("log must come first, for what another transform returns may be below 0")
    return steps


Transforms = Annotated[tuple[AnyTransform, ...], AfterValidator(_log_comes_first)]


class Chain(Config):
    """Transforms in the order in which they are applied.

    Args:
        steps: the transforms.
        is_causal: whether the network answers at each step, so that step t must not see past t.
    """

    steps: Transforms
    is_causal: bool

    def fit(self, chunks: Callable[[], Iterable[Floats]]) -> "Chain":
        """Return the chain fitted to the windows `(n, time)` that calling `chunks` yields, step by step."""
        fitted = Chain(steps=(), is_causal=self.is_causal)
        for step in self.steps:
            before = fitted
            learnt = step.fit(before.forward(chunk)[0] for chunk in chunks())
            fitted = Chain(steps=(*before.steps, learnt), is_causal=self.is_causal)
        return fitted

    def check(self, values: Floats, where: str) -> None:
        """Raise SeriesError if raw `values` are outside the domain of a transform of raw values."""
        for step in self.steps[:1]:
            step.check(values, where)

    def forward(self, x: Array) -> tuple[Array, tuple[Context, ...]]:
        """Return the network's inputs `(batch, time)` and every step's context."""
        contexts = []
        for step in self.steps:
            x, context = step.forward(x, self.is_causal)
            contexts.append(context)
        return x, tuple(contexts)

    def targets(self, y: Array, contexts: tuple[Context, ...]) -> Array:
        """Return the network's targets, in `y`'s shape."""
        for step, context in zip(self.steps, contexts, strict=True):
            y = step.targets(y, context)
        return y

    def inverse(self, z: Array, contexts: tuple[Context, ...]) -> Array:
        """Return raw values from the network's outputs, in `z`'s shape."""
        for step, context in zip(reversed(self.steps), reversed(contexts), strict=True):
            z = step.inverse(z, context)
        return z

    def last_contexts(self, contexts: tuple[Context, ...]) -> tuple[Context, ...]:
        """Return the contexts of the window's last step, which is where a forecast starts."""
        if not self.is_causal:
            return contexts
        return tuple(tuple(array[:, -1, :] for array in context) for context in contexts)

    @property
    def needs_positive(self) -> bool:
        """Say whether raw values must be above 0."""
        return any(isinstance(step, Log) for step in self.steps)

    @property
    def warm_up(self) -> float:
        """Return the share of a window whose causal statistics are still too young to learn from."""
        return 0.25 if self.is_causal and any(isinstance(step, MeanStd) for step in self.steps) else 0.0


def _last(x: Array, is_causal: bool) -> Array:
    return x[..., None] if is_causal else x[:, -1:]


def _moments(x: Array) -> tuple[Array, Array]:
    xp = x.__array_namespace__()
    mean = xp.mean(x, axis=1, keepdims=True)
    variance = xp.mean((x - mean) ** 2, axis=1, keepdims=True)
    return mean, _positive(xp, xp.sqrt(variance), mean)


def _running_moments(x: Array) -> tuple[Array, Array]:
    xp = x.__array_namespace__()
    # relative to the first value, because a sum of squares cancels badly far from 0
    first = x[:, :1]
    counts = np.arange(1, x.shape[1] + 1, dtype=np.float64)[None, :]
    mean = xp.cumulative_sum(x - first, axis=1) / xp.asarray(counts)
    squares = xp.cumulative_sum((x - first) ** 2, axis=1) / xp.asarray(counts)
    variance = squares - mean**2
    return mean + first, _positive(xp, xp.sqrt(xp.where(variance > 0, variance, xp.zeros_like(variance))), mean + first)


def _positive(xp: Any, deviation: Array, mean: Array) -> Array:
    """Take a constant window in units of its level, or of 1 at level 0: a tiny deviation would overflow float32."""
    level = xp.abs(mean)
    usable = xp.where(level > 0, level, xp.ones_like(level))
    return xp.where(deviation > level * 1e-9, deviation, usable)
