"""Levels of intervals, 0–100: the evaluated and scored levels, their names, and the probabilities of their bounds."""

from collections.abc import Sequence

# the levels of the intervals that are evaluated, and that are scored for every forecast, whatever the client requests
LEVELS = (80, 95)


def level_name(level: float) -> str:
    """Return a level as text, such as `80` or `97.5`."""
    return f"{level:g}"


def format_levels(levels: Sequence[float]) -> str:
    """Return levels as text, such as `80,95`."""
    return ",".join(map(level_name, levels))


def parse_levels(text: str) -> tuple[float, ...]:
    """Return the levels that `format_levels` formatted."""
    return tuple(map(float, text.split(","))) if text else ()


def tails(level: float) -> tuple[float, float]:
    """Return the probabilities (0–1) of the lower and the upper bound of an interval of `level` (0–100)."""
    return (100 - level) / 200, (100 + level) / 200


def bound_probabilities(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the probabilities of each level's lower and upper bound in turn, `(2 × levels,)`."""
    return tuple(probability for level in levels for probability in tails(level))


def miscoverage_rate(level: float) -> float:
    """Return the nominal share (0–1) of actuals outside an interval of `level` (0–100)."""
    return 1 - level / 100
