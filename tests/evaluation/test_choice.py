"""The choice between units, and between static and adaptive intervals, by what scored better on earlier blocks."""

import numpy as np

from forecaster.domain.series import Floats
from forecaster.evaluation.choice import Residuals, choose
from forecaster.evaluation.units import CONSTANT, Unit

UNITS = [CONSTANT, Unit("ewma", pull=0.1)]


def residuals(changes: Floats, horizon: int = 2) -> Residuals:
    """Return the last value's residuals on a walk of these changes."""
    windows = np.lib.stride_tricks.sliding_window_view(np.cumsum(changes), 20 + horizon)
    inputs, n = windows[:, :20], len(windows)
    cutoffs = np.datetime64("2020-01-01") + np.arange(n)
    return Residuals(windows[:, 20:], np.repeat(inputs[:, -1:], horizon, axis=1), inputs, cutoffs, np.zeros(n, int))


def test_the_unit_is_constant_where_volatility_is_and_the_windows_where_it_changes() -> None:
    random = np.random.default_rng(0)
    steady = random.normal(size=1500)
    changing = steady * np.where(np.arange(1500) // 150 % 2, 6, 1)
    assert choose(residuals(steady), UNITS).unit.scale == "constant"
    assert choose(residuals(changing), UNITS).unit.scale == "ewma"


def test_intervals_are_static_where_nothing_changes_and_adaptive_where_something_does() -> None:
    walks = [np.random.default_rng(seed).normal(size=5000) for seed in range(2)]
    assert not any(choose(residuals(walk, horizon=8), [CONSTANT]).is_adaptive for walk in walks)
    # each block is wilder than those before it
    assert all(choose(residuals(walk * np.linspace(1, 6, 5000), horizon=8), [CONSTANT]).is_adaptive for walk in walks)


def test_one_step_is_enough_to_choose_by() -> None:
    assert choose(residuals(np.random.default_rng(0).normal(size=500), horizon=1), UNITS).unit.scale == "constant"


def test_with_too_few_windows_to_tell_the_first_unit_is_taken() -> None:
    few = residuals(np.random.default_rng(0).normal(size=60))
    assert choose(few, UNITS[::-1]).unit.scale == "ewma"


def test_the_quantiles_are_those_of_all_residuals() -> None:
    all_of_them = residuals(np.random.default_rng(0).normal(size=1500))
    chosen = choose(all_of_them, [CONSTANT])
    np.testing.assert_array_equal(chosen.residuals, all_of_them.calibrate(CONSTANT).residuals)
    assert chosen.n_windows == len(all_of_them.actual)
