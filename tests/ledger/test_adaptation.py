"""Adaptive intervals: hits and misses in the ledger move them as in a backtest, and quantiles never cross."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.domain.levels import LEVELS
from forecaster.evaluation.adaptive import GAMMA, adapt, adapted_probabilities
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.forecasts import Forecasts
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.ledger.running_sums import update_sums


def score(
    number: int, step: int, is_inside: tuple[int, int], unique_id: str = "a", at: int | None = None
) -> dict[str, object]:
    return {
        "forecast_id": f"f{number}", "owner": "", "step": step, "at": number if at is None else at,
        "model": "m", "version": 1, "is_shadow": False, "forecast_by": "model", "unique_id": unique_id,
        "error": 0.0, "naive_error": 0.0, "is_inside": f'{{"80":{is_inside[0]},"95":{is_inside[1]}}}',
    }  # fmt: skip


def test_misses_lower_the_miscoverage_rate_and_hits_raise_it(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/l.db")
    upgrade_schema(engine)
    rows = [score(number, 2, (0, 1)) for number in range(10)] + [score(20, 1, (1, 1), "b")]
    # a hundred forecasts of the same hour count once
    rows += [score(100 + number, 1, (0, 0), "b", at=7) for number in range(100)]
    with transaction(engine) as connection:
        update_sums(connection, [], rows)
    rates = read_miscoverage_rates(engine, "m", 1)
    np.testing.assert_allclose(
        rates["a"], [[0.2, 0.05], [0.2 * (1 + GAMMA * (10 * 0.2 - 10)), 0.05 * (1 + GAMMA * 10 * 0.05)]]
    )
    np.testing.assert_allclose(rates["b"], [[0.2 * (1 + GAMMA * (2 * 0.2 - 1)), 0.05 * (1 + GAMMA * (2 * 0.05 - 1))]])
    assert read_miscoverage_rates(engine, "m", 2) == {}
    engine.dispose()


def test_the_ledger_adapts_intervals_as_a_backtest_does(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    y, mean = random.normal(size=(60, 1)), Forecasts(np.zeros((60, 1)))
    calibration = calibrate(0.3 * random.normal(size=(400, 1)), Forecasts(np.zeros((400, 1))))
    numbers = np.arange(60)
    low, high = adapt([calibration] * 60, y, mean, np.ones((60, 1)), [80, 95], numbers, numbers * 0).bands[80]
    engine = open_engine(f"sqlite:///{tmp_path}/l.db")
    upgrade_schema(engine)
    inside = ((y >= low) & (y <= high))[:59, 0]
    with transaction(engine) as connection:
        update_sums(connection, [], [score(number, 1, (int(is_inside), 1)) for number, is_inside in enumerate(inside)])
    tails = adapted_probabilities((0.1, 0.9), LEVELS, read_miscoverage_rates(engine, "m", 1)["a"][None])
    assert calibration.spread(np.ones((1, 1)), tails)[0, 0] == pytest.approx([low[59, 0], high[59, 0]])
    engine.dispose()


@given(
    rate_80=st.floats(0.001, 0.9),
    rate_95=st.floats(0.001, 0.9),
    probabilities=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=6, unique=True),
)
def test_adapted_quantiles_never_cross_and_the_median_does_not_move(
    rate_80: float, rate_95: float, probabilities: list[float]
) -> None:
    tails = adapted_probabilities((*sorted(probabilities), 0.5), LEVELS, np.array([[[rate_80, rate_95]]]))[0, 0]
    assert (np.diff(tails[:-1]) >= -1e-12).all()
    assert ((tails > 0) & (tails < 1)).all()
    assert tails[-1] == pytest.approx(0.5)


def test_nominal_miscoverage_rates_leave_quantiles_unchanged() -> None:
    probabilities = (0.025, 0.1, 0.3, 0.5, 0.9, 0.99)
    tails = adapted_probabilities(probabilities, LEVELS, np.array([[[0.2, 0.05]]]))
    np.testing.assert_allclose(tails[0, 0], probabilities)
