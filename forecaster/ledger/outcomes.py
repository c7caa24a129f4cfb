"""The outcomes of a scored step: whether the actual is inside the interval of each level; stored as JSON, by level."""

import json
import math
from collections.abc import Sequence
from functools import lru_cache

from forecaster.domain.levels import level_name

# by level: 1 if the actual is inside the interval, 0 if outside, None if there is no interval
Outcomes = tuple[tuple[float, int | None], ...]


def dump_outcomes(levels: tuple[float, ...], y: float, bounds: Sequence[float]) -> str:
    """Return the outcomes of an actual as text.

    Args:
        levels: 0–100.
        y: the actual.
        bounds: each level's lower and upper bound in turn, NaN if there is no interval, `(2 × levels,)`.
    """
    intervals = zip(bounds[::2], bounds[1::2], strict=True)
    return _dump(levels, tuple(None if math.isnan(low) else int(low <= y <= high) for low, high in intervals))


# a step has one of a few outcomes, so most are dumped and loaded once
@lru_cache(maxsize=4096)
def load_outcomes(text: str) -> Outcomes:
    """Return the outcomes that `dump_outcomes` dumped."""
    return tuple((float(level), is_inside) for level, is_inside in json.loads(text).items())


@lru_cache(maxsize=4096)
def _dump(levels: tuple[float, ...], are_inside: tuple[int | None, ...]) -> str:
    by_level = dict(zip(map(level_name, levels), are_inside, strict=True))
    return json.dumps(by_level, separators=(",", ":"))
