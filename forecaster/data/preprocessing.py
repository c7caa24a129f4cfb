"""Convert raw inputs to the network's inputs: transforms of the target and of each exogenous column.

Like the transforms, this module uses the array API, so the same code runs on numpy and traces into the served graph.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from forecaster.data.moments import Array
from forecaster.data.transforms import Chain, Context, Standardize, Transforms
from forecaster.domain.config import Config, short_for
from forecaster.domain.errors import SeriesError
from forecaster.domain.series import KNOWN, STATIC, Floats, Inputs, X, Y
from forecaster.domain.support import EVERYTHING, Support


class HistColumn(Config):
    """A column known up to the cutoff, and its transforms."""

    column: str
    transforms: Transforms = (Standardize(),)


# `volume` is short for `{column: volume}`
HistColumns = tuple[Annotated[HistColumn, short_for("column")], ...]


# the position of a name in an embedding
Position = Annotated[int, Field(ge=0, le=10_000_000)]


class Preprocessing(Config):
    """All transforms between raw values and the network.

    Args:
        target: the target's transforms.
        hist: the transforms of each `hist_exog` column.
        known: the scale of each column known ahead.
        numbers: the scale of each static number.
        sizes: of each embedding whose positions follow the numbers in `static`; 0 is the position of what is unknown.
        unseen: of each embedding, the positions that do not occur in the windows that this was fitted to. Nothing was
            learned there, so they count as unknown.
        support: the values that the target can take.
        is_masked: whether the target and `hist` may have missing values, which are NaN.
    """

    target: Chain
    hist: tuple[Chain, ...] = ()
    known: tuple[Standardize, ...] = ()
    numbers: tuple[Standardize, ...] = ()
    sizes: tuple[Annotated[int, Field(ge=1, le=10_000_000)], ...] = ()
    unseen: tuple[tuple[Position, ...], ...] = ()
    support: Support = EVERYTHING
    is_masked: bool = False

    def shapes(self, input_size: int, horizon: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each raw input, without the batch axis."""
        n_static = len(self.numbers) + len(self.sizes)
        return (
            {X: (input_size, 1 + len(self.hist))}
            | ({KNOWN: (input_size + horizon, len(self.known))} if self.known else {})
            | ({STATIC: (n_static,)} if n_static else {})
        )

    def fit(self, chunks: Callable[[], Iterable[Inputs]]) -> "Preprocessing":
        """Return the preprocessing fitted to windows; each call of `chunks` yields all of them in chunks.

        Raises:
            SeriesError: a column has no observed value.
        """

        def column(name: str, number: int) -> Callable[[], Iterable[Floats]]:
            return lambda: (chunk.feeds[name][..., number] for chunk in chunks())

        return Preprocessing(
            target=_fit(self.target, Y, column(X, 0)),
            support=self.support,
            is_masked=self.is_masked,
            hist=tuple(
                _fit(chain, f"hist_exog.{number}", column(X, 1 + number)) for number, chain in enumerate(self.hist)
            ),
            known=tuple(scale.fit(column(KNOWN, number)()) for number, scale in enumerate(self.known)),
            numbers=tuple(scale.fit(column(STATIC, number)()) for number, scale in enumerate(self.numbers)),
            sizes=self.sizes,
            unseen=tuple(
                _unseen(column(STATIC, number)(), size) for number, size in enumerate(self.sizes, len(self.numbers))
            ),
        )

    def forward(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], tuple[Context, ...]]:
        """Return the network's inputs by name, and the contexts of the target's transforms.

        Args:
            inputs: raw values by name, in the shapes of `shapes` after the batch axis.

        Returns:
            `x` and `known` in the same shapes; if values may be missing, `x` has as many columns again, which are 1
            where a value is observed and 0 where it is missing. In place of `static`, `numbers (batch, numbers)` and
            `codes (batch, codes)`. Those that are empty are left out.
        """
        values = inputs[X]
        xp = values.__array_namespace__()
        target, contexts = self.target.forward(values[:, :, 0])
        hist = [chain.forward(values[:, :, number])[0] for number, chain in enumerate(self.hist, start=1)]
        columns = [target, *hist]
        if self.is_masked:
            columns = _with_observed(values, columns)
        prepared = {X: xp.concat([column[..., None] for column in columns], axis=2)}
        if self.known:
            prepared[KNOWN] = _scaled(self.known, inputs[KNOWN])
        if self.numbers:
            prepared["numbers"] = _scaled(self.numbers, inputs[STATIC])
        if self.sizes:
            columns = [inputs[STATIC][:, len(self.numbers) + number] for number in range(len(self.sizes))]
            unseen = self.unseen or ((),) * len(self.sizes)
            known = [_known(*column) for column in zip(columns, self.sizes, unseen, strict=True)]
            prepared["codes"] = xp.concat([column[:, None] for column in known], axis=1)
        return prepared, contexts


def _fit(chain: Chain, name: str, chunks: Callable[[], Iterable[Floats]]) -> Chain:
    try:
        return chain.fit(chunks)
    except SeriesError as error:
        raise SeriesError(f"{name}: {error}") from error


def _scaled(scales: tuple[Standardize, ...], columns: Array) -> Array:
    """Return the first columns of the last axis, each on its scale."""
    xp = columns.__array_namespace__()
    scaled = [scale.forward(columns[..., number], is_causal=False)[0] for number, scale in enumerate(scales)]
    return xp.concat([column[..., None] for column in scaled], axis=-1)


def _with_observed(values: Array, columns: list[Array]) -> list[Array]:
    """Return columns `(batch, time)` with 0 where `values (batch, time, columns)` are missing, and what is observed."""
    xp = values.__array_namespace__()
    missing = [xp.isnan(values[:, :, number]) for number in range(len(columns))]
    zeros = [xp.zeros_like(column) for column in columns]
    seen = [xp.where(at, zero, column) for at, zero, column in zip(missing, zeros, columns, strict=True)]
    return [*seen, *(xp.where(at, zero, zero + 1) for at, zero in zip(missing, zeros, strict=True))]


def _unseen(chunks: Iterable[Floats], size: int) -> tuple[int, ...]:
    """Return the positions above 0 in an embedding of `size` rows that do not occur in any chunk."""
    seen = np.zeros(size, dtype=bool)
    for chunk in chunks:
        seen[chunk.astype(np.int64)] = True
    return tuple((np.flatnonzero(~seen[1:]) + 1).tolist())


def _known(positions: Array, size: int, unseen: tuple[int, ...]) -> Array:
    """Return positions `(n,)`, with 0 for those that are unseen, or outside of an embedding of `size` rows."""
    xp = positions.__array_namespace__()
    unknown = xp.zeros_like(positions)
    within = xp.where(positions > 0, xp.where(xp.asarray(float(size)) > positions, positions, unknown), unknown)
    if not unseen:
        return within
    table = np.arange(size, dtype=np.float64)
    table[list(unseen)] = 0
    return xp.take(xp.asarray(table), xp.astype(within, xp.int64), axis=0)
