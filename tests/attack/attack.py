"""What an attack is, and how its outcome is told."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.attack.target import Target


@dataclass(frozen=True)
class Outcome:
    """How an attack ended: whether the program held, and what was seen, with figures."""

    held: bool
    seen: str


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: what it does to the program, a few words; unique.
        line: of the promise that it tests, such as `A1`.
        run: carries it out against a target, within a bounded time.
    """

    name: str
    line: str
    run: Callable[[Target], Outcome]


def last_words(text: str) -> str:
    """Return the last line of what a program said, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:110] if lines else "nothing said"
