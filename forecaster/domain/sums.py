"""Exact sums of floats: subtracting a value restores the sum from before its addition.

A sum is stored as a few floats that do not overlap and add up to it exactly.

Source: Shewchuk (1997), doi:10.1007/PL00009321, GROW-EXPANSION. Python's `math.fsum` uses the same algorithm.
"""

import json
import math
from collections.abc import Iterable

# values are multiplied by this power of 2, which is exact, so that a sum of the largest floats stays finite
_SCALE = 2.0**-100
Parts = list[float]


def add(parts: Parts, values: Iterable[float]) -> Parts:
    """Return the parts of a sum after adding finite values."""
    return join(parts, [value * _SCALE for value in values])


def join(parts: Parts, others: Parts) -> Parts:
    """Return the parts of the sum of two sums."""
    for other in others:
        rest, grown = other, []
        for part in parts:
            large, small = (rest, part) if abs(rest) >= abs(part) else (part, rest)
            rest = large + small
            lost = small - (rest - large)
            if lost:
                grown.append(lost)
        parts = [*grown, rest] if rest else grown
    return parts


def mean(parts: Parts, count: int) -> float:
    """Return a sum divided by `count`, which is at least 1."""
    return math.fsum(parts) / count / _SCALE


def dumps(parts: Parts) -> str:
    """Serialize the parts without loss."""
    return json.dumps(parts)


def loads(text: str) -> Parts:
    """Deserialize the parts that `dumps` has serialized."""
    parts: Parts = json.loads(text)
    return parts
