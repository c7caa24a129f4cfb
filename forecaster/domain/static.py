"""Static columns: what describes each series as a whole, as numbers and as positions in embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# a number, or the name of a category
StaticValue = float | str
StaticKind = Literal["number", "category"]
NUMBER: StaticKind = "number"
CATEGORY: StaticKind = "category"
# the names that an embedding knows, from position 1 on; None for a name that the network was not fitted on
Names = tuple[str | None, ...]
# position 0
_UNKNOWN = 0
# the column of the series' own position
_SERIES = "unique_id"


@dataclass(frozen=True)
class StaticColumns:
    """The columns of `static`: numbers, then the position of the series if it is embedded, then those of categories.

    Args:
        numbers: the names of the numbers.
        series: the names of the embedded series; empty if series are not embedded.
        categories: by name of a category, its values.
    """

    numbers: tuple[str, ...] = ()
    series: Names = ()
    categories: Mapping[str, Names] = field(default_factory=dict)

    @classmethod
    def learn(
        cls, unique_ids: Sequence[str], values: Mapping[str, Sequence[StaticValue]], *, is_embedded: bool
    ) -> "StaticColumns":
        """Return the columns of the values of each series; a column of text is a category."""
        kinds = {name: isinstance(column[0], str) for name, column in values.items()}
        return cls(
            tuple(name for name, is_category in kinds.items() if not is_category),
            tuple(sorted(unique_ids)) if is_embedded else (),
            {name: tuple(sorted({*map(str, values[name])})) for name, is_category in kinds.items() if is_category},
        )

    @property
    def stat_exog(self) -> tuple[str, ...]:
        """Return the columns whose values a request must supply."""
        return (*self.numbers, *self.categories)

    @property
    def kinds(self) -> dict[str, StaticKind]:
        """Return how each column of `stat_exog` is read."""
        return dict.fromkeys(self.numbers, NUMBER) | dict.fromkeys(self.categories, CATEGORY)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns of `static`, in order."""
        return (*self.numbers, *self._embedded)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of rows of each embedding, the row of what is unknown included."""
        return tuple(len(names) + 1 for names in self._embedded.values())

    @property
    def _embedded(self) -> dict[str, Names]:
        return ({_SERIES: self.series} if self.series else {}) | dict(self.categories)

    @cached_property
    def _positions(self) -> dict[str, dict[str | None, int]]:
        return {
            column: {name: position for position, name in enumerate(names, start=1) if name is not None}
            for column, names in self._embedded.items()
        }

    def encode(self, unique_id: str, values: Mapping[str, StaticValue]) -> list[float]:
        """Return a series' row of `static`.

        Args:
            unique_id: the series' name.
            values: its `stat_exog`, numbers as floats.
        """
        named = {_SERIES: unique_id} | {name: category_name(values[name]) for name in self.categories}
        positions = (known.get(named[column], _UNKNOWN) for column, known in self._positions.items())
        return [*(float(values[name]) for name in self.numbers), *map(float, positions)]

    def encode_all(self, unique_ids: Sequence[str], values: Mapping[str, Sequence[StaticValue]]) -> NDArray[np.float64]:
        """Return `static` of all series, `(n, columns)`; `values` has a value for each series in each column."""
        rows = [
            self.encode(unique_id, {name: column[row] for name, column in values.items()})
            for row, unique_id in enumerate(unique_ids)
        ]
        return np.array(rows, dtype=np.float64).reshape(len(unique_ids), len(self.names))

    def decode(self, row: Sequence[float]) -> dict[str, StaticValue | None]:
        """Return the values of a row of `static` by column; None where it is unknown."""
        numbers, positions = row[: len(self.numbers)], row[len(self.numbers) :]
        named = zip(self._embedded.items(), positions, strict=True)
        return dict(zip(self.numbers, numbers, strict=True)) | {
            column: names[int(position) - 1] if position else None for (column, names), position in named
        }

    def without(self, unseen: Sequence[Sequence[int]]) -> "StaticColumns":
        """Return the columns without the names at the positions `unseen` of each embedding; other positions stay."""
        kept = {
            column: tuple(None if position in gone else name for position, name in enumerate(names, start=1))
            for (column, names), gone in zip(self._embedded.items(), map(set, unseen), strict=True)
        }
        return StaticColumns(self.numbers, kept.pop(_SERIES, ()), kept)

    def warnings(self, unique_ids: Sequence[str], static: NDArray[np.float64] | None) -> Iterator[str]:
        """Yield a sentence for each column in which a series has an unknown name."""
        if static is None:
            return
        for number, (column, known) in enumerate(self._positions.items(), start=len(self.numbers)):
            rows = np.flatnonzero(~np.isin(static[:, number], list(known.values())))
            if len(rows):
                who = f"series '{unique_ids[rows[0]]}'" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
                what, kind = (who, "series") if column == _SERIES else (f"the {column} of {who}", column)
                yield f"the model was not trained on {what}; the forecast is that of an unknown {kind}"


NO_STATIC = StaticColumns()


def category_name(value: object) -> str:
    """Return the name of a category, the same for 3, 3.0 and "3"."""
    return str(int(value)) if isinstance(value, float | np.floating) and value.is_integer() else str(value)
