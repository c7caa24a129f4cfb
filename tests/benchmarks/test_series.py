"""The benchmark of the number of series: the measured costs, and how they grow."""

from dataclasses import replace

import pytest

from benchmarks.series import QUICK, Cost, as_rows, exponent, measure


def test_costs_are_those_of_the_measured_series() -> None:
    count = QUICK.series[1]
    cost = measure(count, 3, QUICK)
    # the frame has 24 bytes per row and its index 132, the arrays 16
    assert cost.data == count * QUICK.rows * 40 + 132
    # 280 train rows of each series, of which 35 belong to the first window
    assert cost.windows == count * 50
    assert len(cost.seconds) == len(cost.core_seconds) == 3
    # compiling takes seconds
    assert max(cost.core_seconds) < 1
    assert cost.memory > 0


def test_growth_is_judged_by_exponents_and_by_the_memory_of_most_series() -> None:
    cost = Cost(1_000, (1.0, 1.2, 1.4), (1.0,), 0.1, 10**6, 10**9)
    larger = Cost(100_000, (480.0,), (100.0,), 20.0, 10**8, 2 * 10**8)
    rows = {row.name: row for row in as_rows((10, 1_000), [cost, larger])}
    assert rows["exponent of an epoch's CPU time over windows"].met
    assert rows["exponent of an epoch's time over windows"].value == pytest.approx(1.301, abs=1e-3)
    assert rows["exponent of the CPU time to windows"].met is False
    assert rows["peak memory over the data, most series"].value == 2
    assert exponent([1, 10, 100], [1, 100, 10_000]) == pytest.approx(2)
    lean = replace(larger, memory=10**8)
    assert [row.met for row in as_rows((10, 1_000), [cost, lean])][-1]
