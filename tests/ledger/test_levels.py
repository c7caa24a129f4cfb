"""Forecasts are scored at their own levels, and those of several sets of levels share a ledger."""

import numpy as np
import pytest
from sqlalchemy import Engine

from forecaster.evaluation.adaptive import GAMMA
from forecaster.ledger.adaptation import read_all_miscoverage_rates, read_miscoverage_rates
from forecaster.ledger.entries import ServedForecast, forecast_id
from forecaster.ledger.queries import find_forecast
from forecaster.ledger.retention import forget_series
from forecaster.ledger.running_sums import sums_since
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.skill import realised_skill, skill_from_sums
from forecaster.ledger.writer import write
from tests.ledger.test_ledger import HOUR, entry

MEAN = (1.0, 2.0, 3.0)
# inside mean ± 2 alone, inside both intervals, outside both
ACTUALS = [Actual("a", 10 * HOUR, 2.5), Actual("a", 11 * HOUR, 2.5), Actual("a", 12 * HOUR, 9.0)]


def forecast(*levels: float, unique_id: str = "a", mean: tuple[float, ...] = MEAN) -> ServedForecast:
    """Return an hourly forecast with intervals of mean ± 1 (the first level), mean ± 2 (the second), and so on."""
    widths = [sign * number for number, _ in enumerate(levels, start=1) for sign in (-1, 1)]
    rows = [[(10 + step) * HOUR, y, *(y + width for width in widths)] for step, y in enumerate(mean)]
    return ServedForecast(unique_id, 3.0, np.array(rows), "{}", levels=levels)


def test_forecasts_are_scored_at_their_own_levels(engine: Engine) -> None:
    request = entry(forecast(50, 97.5))
    write(engine, [request])
    record_actuals(engine, ACTUALS)
    (skill,) = realised_skill(engine, "sine")
    assert skill.coverage == {"50": 1 / 3, "97.5": 2 / 3}
    assert skill.n_covered == {"50": 3, "97.5": 3}
    assert skill_from_sums(sums_since(engine, 0)["", "sine", 1]) == skill
    rates = read_miscoverage_rates(engine, "sine", 1, levels=(50, 97.5))
    hit, miss = 1 + GAMMA * np.array([0.5, 0.025]), 1 + GAMMA * (np.array([0.5, 0.025]) - 1)
    factors = [[miss[0], hit[1]], [hit[0], hit[1]], [miss[0], miss[1]]]
    np.testing.assert_allclose(rates["a"], np.array([0.5, 0.025]) * factors)
    found = find_forecast(engine, forecast_id(request.request_id, 0))
    assert found is not None
    assert found["actual"] == [2.5, 2.5, 9.0]


def test_forecasts_of_several_levels_share_a_ledger(engine: Engine) -> None:
    write(engine, [entry(forecast(80, 95)), entry(forecast(50, 90, 95)), entry(forecast(80, 95, mean=MEAN[:1]))])
    write(engine, [entry(forecast(50, unique_id="b"), version=2), entry(forecast(unique_id="b"), version=2)])
    # sent twice, and once corrected
    for actuals in (ACTUALS, ACTUALS, [Actual("a", 10 * HOUR, 1.0)], [Actual("b", 10 * HOUR, 1.0)]):
        record_actuals(engine, actuals)
    first, second = realised_skill(engine, "sine", "version")
    assert first.n_covered == {"50": 3, "80": 4, "90": 3, "95": 7}
    assert first.coverage == {"50": 2 / 3, "80": 3 / 4, "90": 2 / 3, "95": 5 / 7}
    assert (second.n_scores, second.n_covered) == (2, {"50": 1})
    assert skill_from_sums(sums_since(engine, 0)["", "sine", 1]).coverage == first.coverage
    # a version without scores at these levels has none to adapt to
    assert read_all_miscoverage_rates(engine, (80, 95)).keys() == {("", "sine", 1)}
    rates = read_miscoverage_rates(engine, "sine", 1, levels=(95, 50, 40))["a"]
    # the first hour was forecast three times from the same step and counts once; no forecast has the level 40
    np.testing.assert_allclose(rates[0], [0.05 * (1 + GAMMA * 0.05), 0.5 * (1 + GAMMA * 0.5), 0.6])
    forget_series(engine, "a")
    assert realised_skill(engine, "sine", version=1) == []
    assert sums_since(engine, 0).keys() == {("", "sine", 2)}
    assert read_miscoverage_rates(engine, "sine", 1, levels=(80, 95)) == {}


def test_bounds_that_do_not_match_the_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps: 6 columns, but the levels \(80, 95, 99\) need 8"):
        ServedForecast("a", 1.0, np.zeros((2, 6)), "{}", levels=(80, 95, 99))
