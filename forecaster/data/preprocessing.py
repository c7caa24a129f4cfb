"""Convert raw inputs to the network's inputs: transforms of the target and of each exogenous column.

Like the transforms, this module uses the array API, so the same code runs on numpy and traces into the served graph.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator

from forecaster.data.transforms import Array, Chain, Context, Standardize, Transforms
from forecaster.domain.config import Config
from forecaster.domain.series import Floats, Inputs


class HistColumn(Config):
    """A column known up to the cutoff, and its transforms."""

    column: str
    transforms: Transforms = (Standardize(),)


def _expand(column: Any) -> Any:
    return {"column": column} if isinstance(column, str) else column


# `volume` is short for `{column: volume}`
HistColumns = tuple[Annotated[HistColumn, BeforeValidator(_expand)], ...]


class Preprocessing(Config):
    """All transforms between raw values and the network.

    Args:
        target: the target's transforms.
        hist: the transforms of each `hist_exog` column.
        known: the scale of each column known ahead.
    """

    target: Chain
    hist: tuple[Chain, ...] = ()
    known: tuple[Standardize, ...] = ()

    def fit(self, chunks: Callable[[], Iterable[Inputs]]) -> "Preprocessing":
        """Return the preprocessing fitted to windows; each call of `chunks` yields all of them in chunks."""

        def feature(number: int) -> Callable[[], Iterable[Floats]]:
            return lambda: (chunk.values[:, :, number] for chunk in chunks())

        def known(number: int) -> Iterable[Floats]:
            return (chunk.known[:, :, number] for chunk in chunks() if chunk.known is not None)

        return Preprocessing(
            target=self.target.fit(feature(0)),
            hist=tuple(chain.fit(feature(number)) for number, chain in enumerate(self.hist, start=1)),
            known=tuple(scale.fit(known(number)) for number, scale in enumerate(self.known)),
        )

    def forward(self, values: Array, known: Array | None) -> tuple[list[Array], tuple[Context, ...]]:
        """Return the network's inputs, and the contexts of the target's transforms.

        Args:
            values: raw values, `(batch, input_size, 1 + hist_exog)`.
            known: raw known columns, `(batch, input_size + horizon, features)`, or None.

        Returns:
            The inputs have the same shapes; the second is left out if `known` is None.
        """
        xp = values.__array_namespace__()
        target, contexts = self.target.forward(values[:, :, 0])
        hist = [chain.forward(values[:, :, number])[0] for number, chain in enumerate(self.hist, start=1)]
        inputs = [xp.concat([column[..., None] for column in (target, *hist)], axis=2)]
        if known is not None:
            scaled = [scale.forward(known[:, :, n], is_causal=False)[0] for n, scale in enumerate(self.known)]
            inputs.append(xp.concat([column[..., None] for column in scaled], axis=2))
        return inputs, contexts
