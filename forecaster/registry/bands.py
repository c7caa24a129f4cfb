"""The requested columns besides the mean: intervals by level, or quantiles."""

from dataclasses import dataclass
from functools import lru_cache

from forecaster.domain.errors import RequestError
from forecaster.domain.levels import bound_probabilities
from forecaster.domain.series import lower, quantile_name, upper


@dataclass(frozen=True)
class Bands:
    """The requested columns besides the mean, and the probability of each."""

    columns: tuple[str, ...]
    probabilities: tuple[float, ...]


@lru_cache(64)
def bands(level: tuple[float, ...] | None = None, quantiles: tuple[float, ...] | None = None) -> Bands:
    """Return the columns for `level` (0–100, exclusive) or `quantiles` (0–1, exclusive).

    Raises:
        RequestError: both are given, or a number is out of range.
    """
    if level is not None and quantiles is not None:
        raise RequestError("level and quantiles: give one of them, not both")
    if quantiles is not None:
        if not all(0 < q < 1 for q in quantiles):
            raise RequestError(f"quantiles: each must be above 0 and below 1, got {list(quantiles)}")
        unique = sorted(set(quantiles))
        return Bands(tuple(quantile_name(q) for q in unique), tuple(unique))
    levels = sorted(set(level or ()))
    if not all(0 < value < 100 for value in levels):
        raise RequestError(f"level: each must be above 0 and below 100, got {levels}")
    columns = tuple(name for value in levels for name in (lower(value), upper(value)))
    return Bands(columns, bound_probabilities(levels))
