"""Levels of intervals, 0–100: which are evaluated and scored, and the probabilities that a level stands for."""

from collections.abc import Sequence

# the intervals that are evaluated, and scored of every served forecast, whichever the client asked for
LEVELS = (80, 95)


def tails(level: float) -> tuple[float, float]:
    """Return the probabilities (0–1) of the lower and the upper bound of an interval of `level` (0–100)."""
    return (100 - level) / 200, (100 + level) / 200


def bound_probabilities(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the probabilities of each level's lower and upper bound in turn, `(2 × levels,)`."""
    return tuple(probability for level in levels for probability in tails(level))


def miscoverage_rate(level: float) -> float:
    """Return the share of values (0–1) that an interval of `level` (0–100) is meant to leave outside."""
    return 1 - level / 100
