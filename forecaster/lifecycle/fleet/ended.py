"""How an order ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How an order ended.

    Args:
        number: its place among the orders.
        answer: JSON, as `work.carry_out` has it; None where the worker was lost.
        reason: why there is no answer.
    """

    number: int
    answer: str | None
    reason: str = ""
