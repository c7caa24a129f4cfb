"""Attacks and their outcomes."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.attack.target import Target


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attack: whether the program held, and the observation as text."""

    held: bool
    seen: str


@dataclass(frozen=True)
class Attack:
    """An attack on the program.

    Args:
        name: a unique short description.
        requirement: the number of the requirement that it tests, such as `A1`.
        run: attacks a target within a bounded time.
    """

    name: str
    requirement: str
    run: Callable[[Target], Outcome]


def last_line(text: str) -> str:
    """Return the last line of a program's output, short enough for the table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:110] if lines else "no output"
