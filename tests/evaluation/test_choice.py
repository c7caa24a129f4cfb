"""The choice of the unit and of static or adaptive intervals, by their scores on past residuals."""

import numpy as np

from forecaster.domain.series import Floats
from forecaster.evaluation.choice import Residuals, choose
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.units import CONSTANT, Unit

UNITS = [CONSTANT, Unit("ewma", pull=0.1)]


def residuals(changes: Floats, horizon: int = 2) -> Residuals:
    """Return the residuals of last-value forecasts of a walk with these changes."""
    windows = np.lib.stride_tricks.sliding_window_view(np.cumsum(changes), 20 + horizon)
    inputs, n = windows[:, :20], len(windows)
    cutoffs = np.datetime64("2020-01-01") + np.arange(n)
    last = Forecasts(np.repeat(inputs[:, -1:], horizon, axis=1))
    return Residuals(windows[:, 20:], last, inputs, cutoffs, np.zeros(n, int))


def test_choose_prefers_constant_unit_for_steady_and_ewma_for_changing_volatility() -> None:
    random = np.random.default_rng(0)
    steady = random.normal(size=1500)
    changing = steady * np.where(np.arange(1500) // 150 % 2, 6, 1)
    assert choose(residuals(steady), UNITS).unit.scale == "constant"
    assert choose(residuals(changing), UNITS).unit.scale == "ewma"


def test_choose_prefers_static_intervals_for_stationary_and_adaptive_for_drifting_residuals() -> None:
    walks = [np.random.default_rng(seed).normal(size=5000) for seed in range(2)]
    assert not any(choose(residuals(walk, horizon=8), [CONSTANT]).is_adaptive for walk in walks)
    # the volatility grows from block to block
    assert all(choose(residuals(walk * np.linspace(1, 6, 5000), horizon=8), [CONSTANT]).is_adaptive for walk in walks)


def test_choose_supports_a_horizon_of_one_step() -> None:
    assert choose(residuals(np.random.default_rng(0).normal(size=500), horizon=1), UNITS).unit.scale == "constant"


def test_choose_takes_the_first_unit_for_too_few_windows() -> None:
    few = residuals(np.random.default_rng(0).normal(size=60))
    assert choose(few, UNITS[::-1]).unit.scale == "ewma"


def test_choose_calibrates_on_all_residuals() -> None:
    sample = residuals(np.random.default_rng(0).normal(size=1500))
    chosen = choose(sample, [CONSTANT])
    np.testing.assert_array_equal(chosen.residuals, sample.calibrate(CONSTANT).residuals)
    assert chosen.n_windows == len(sample.actual)
