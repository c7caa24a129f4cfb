"""Sums of floats that are exact, so that what was added can be taken away again, whatever came between.

A sum is kept as a few floats that do not overlap and whose exact sum it is.

Source: Shewchuk (1997), doi:10.1007/PL00009321, GROW-EXPANSION; as in Python's own `math.fsum`, which rounds it once.
"""

import json
import math
from collections.abc import Iterable

# by which all values are multiplied, exactly, so that a sum of the largest floats is finite
_SCALE = 2.0**-100
Parts = list[float]


def add(parts: Parts, values: Iterable[float]) -> Parts:
    """Return the parts of a sum with finite values added."""
    return join(parts, [value * _SCALE for value in values])


def join(parts: Parts, others: Parts) -> Parts:
    """Return the parts of two sums together."""
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
    """Return a sum over a count of at least 1."""
    return math.fsum(parts) / count / _SCALE


def spell(parts: Parts) -> str:
    """Return the parts as text, without loss."""
    return json.dumps(parts)


def read(text: str) -> Parts:
    """Return the parts from `spell`'s text."""
    parts: Parts = json.loads(text)
    return parts
