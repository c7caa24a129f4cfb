"""Exact sums: subtracting a value restores the sum from before its addition."""

import math
import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import sums

FLOATS = st.lists(st.floats(-1e300, 1e300).filter(lambda value: value == 0 or abs(value) > 1e-200), max_size=20)


@given(FLOATS, st.randoms(use_true_random=False))
def test_sum_is_exact_in_any_order(values: list[float], chance: random.Random) -> None:
    parts = sums.add([], values)
    assert sum(map(Fraction, parts)) == sum(map(Fraction, values)) * Fraction(2) ** -100
    chance.shuffle(values)
    # added in two halves, one of them serialized
    joined = sums.join(sums.add([], values[::2]), sums.loads(sums.dumps(sums.add([], values[1::2]))))
    assert math.fsum(joined) == math.fsum(parts)


@given(FLOATS, FLOATS)
def test_subtracting_values_restores_the_sum(values: list[float], others: list[float]) -> None:
    before = sums.add([], values)
    restored = sums.add(sums.add(before, others), [-other for other in others])
    assert math.fsum(restored) == math.fsum(before)


def test_mean_of_the_largest_floats_is_finite() -> None:
    assert sums.mean(sums.add([], [1.7e308] * 50), 50) == 1.7e308
