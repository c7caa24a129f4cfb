"""Units of residuals: volatility of values and returns, and its pull towards the long run."""

import numpy as np
import pytest

from forecaster.evaluation.units import Unit, candidates, ewma


def test_ewma_matches_values_computed_by_hand_and_constant_windows_get_the_least_unit() -> None:
    # the changes are 1 and 2
    by_hand = np.sqrt((0.94 * 1 + 4) / 1.94)
    windows = np.array([[0.0, 1.0, 3.0], [5.0, 5.0, 5.0]])
    np.testing.assert_allclose(ewma(windows), [[by_hand], [0]])
    np.testing.assert_allclose(Unit("ewma").fit(windows).of(windows), [[by_hand], [by_hand]])
    assert Unit("ewma").fit(windows[1:]).of(windows[1:]) == 1


def test_returns_unit_is_proportional_to_the_price() -> None:
    windows = 50 * np.exp(np.cumsum(0.01 * np.random.default_rng(0).normal(size=(40, 30)), axis=1))
    unit = Unit("returns", pull=0.2).fit(windows)
    in_cents = Unit("returns", pull=0.2).fit(100 * windows)
    np.testing.assert_allclose(in_cents.of(100 * windows), 100 * unit.of(windows))
    np.testing.assert_allclose(unit.of(windows)[:, 0] / windows[:, -1], 0.01, rtol=0.5)


def test_long_run_pull_narrows_volatile_windows_and_widens_calm_ones() -> None:
    random = np.random.default_rng(0)
    calm, wild = np.cumsum(random.normal(size=(50, 30)), axis=1), np.cumsum(9 * random.normal(size=(50, 30)), axis=1)
    windows = np.concatenate([calm, wild])
    plain, drawn = (Unit("ewma", pull=pull).fit(windows).of(windows)[:, 0] for pull in (0.0, 0.3))
    assert (drawn[:50] > plain[:50]).all()
    assert (drawn[50:] < plain[50:]).all()


@pytest.mark.parametrize("is_positive", [True, False])
def test_auto_candidates_suit_the_series(is_positive: bool) -> None:
    scales = {unit.scale for unit in candidates("auto", is_positive)}
    assert scales == ({"returns"} if is_positive else {"constant", "ewma"})
    assert candidates("ewma", is_positive) == [Unit("ewma")]
