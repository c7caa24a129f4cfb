"""The shape of a network: its lengths, and how many columns of each kind it takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkShape:
    """What determines the shapes of a network's inputs and outputs, besides its configuration.

    Args:
        input_size: steps of input.
        horizon: steps of forecast.
        values: columns known up to the cutoff: the target and `hist_exog`.
        known: columns known ahead.
        numbers: static numbers of a series.
        categories: for each static category of a series, how many values it has, an unknown value included.
        n_series: how many series the embedding knows, an unknown series included; 0 without an embedding.
    """

    input_size: int
    horizon: int
    values: int = 1
    known: int = 0
    numbers: int = 0
    categories: tuple[int, ...] = ()
    n_series: int = 0

    @property
    def n_codes(self) -> int:
        """Return the number of integers that describe a series: its own position, and those of its categories."""
        return bool(self.n_series) + len(self.categories)
