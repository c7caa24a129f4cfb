"""Adaptive intervals: intervals of different levels never cross."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.adaptive import adapt
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.forecasts import Forecasts


@given(
    seed=st.integers(0, 2**31),
    levels=st.lists(st.integers(5, 98), min_size=2, max_size=4, unique=True),
    wild=st.floats(0.01, 100),
    rhythm=st.integers(1, 60),
    step_size=st.integers(1, 3),
)
def test_bands_of_different_levels_never_cross(
    seed: int, levels: list[int], wild: float, rhythm: int, step_size: int
) -> None:
    random = np.random.default_rng(seed)
    calibration = calibrate(random.standard_t(3, size=(700, 2)), Forecasts(np.zeros((700, 2))))
    # alternate between stretches of misses only and of no misses
    sizes = np.where(np.arange(300) // rhythm % 2, wild, 0.01)[:, None]
    actual, mean, numbers = sizes * random.normal(size=(300, 2)), random.normal(size=(300, 2)), np.arange(300)
    units = np.exp(random.normal(size=(300, 1)))
    bands = adapt([calibration] * 300, actual, Forecasts(mean), units, levels, numbers, numbers * 0, step_size).bands
    bounds = [bands[level][0] for level in sorted(levels, reverse=True)]
    bounds += [bands[level][1] for level in sorted(levels)]
    assert (np.diff(bounds, axis=0) >= -1e-9).all()
