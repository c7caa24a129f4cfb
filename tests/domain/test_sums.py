"""Exact sums: what is taken away again leaves nothing behind."""

import math
import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import sums

FLOATS = st.lists(st.floats(-1e300, 1e300).filter(lambda value: value == 0 or abs(value) > 1e-200), max_size=20)


@given(FLOATS, st.randoms(use_true_random=False))
def test_a_sum_is_exact_in_any_order(values: list[float], chance: random.Random) -> None:
    parts = sums.add([], values)
    assert sum(map(Fraction, parts)) == sum(map(Fraction, values)) * Fraction(2) ** -100
    chance.shuffle(values)
    # some now, some later, and through text
    later = sums.join(sums.add([], values[::2]), sums.loads(sums.dumps(sums.add([], values[1::2]))))
    assert math.fsum(later) == math.fsum(parts)


@given(FLOATS, FLOATS)
def test_what_is_taken_away_leaves_what_was_there(values: list[float], others: list[float]) -> None:
    there = sums.add([], values)
    back = sums.add(sums.add(there, others), [-other for other in others])
    assert math.fsum(back) == math.fsum(there)


def test_the_largest_floats_have_a_mean() -> None:
    assert sums.mean(sums.add([], [1.7e308] * 50), 50) == 1.7e308
