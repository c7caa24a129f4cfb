"""The migration that keys intervals by level keeps skill, running sums, miscoverage rates and scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, delete, select, text

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.database.sqlite_files import create_sqlite_file
from forecaster.database.tables import DAY_LEVELS, DAYS, SCORES, STEPS, TIMES
from forecaster.evaluation.adaptive import miscoverage_rates
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.ledger.entries import pack_steps
from forecaster.ledger.queries import find_forecast
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.skill import realised_skill
from tests.database.revisions import insert, migrate_to
from tests.ledger.test_running_sums import recomputed_sums, stored_sums
from tests.postgres import fresh_database

HOUR = 3_600_000_000
# first hour, whether in the shadow, what forecast, and how many of the two levels have an interval
FORECASTS = [
    (10, False, "model", 2), (10, False, "model", 2), (11, False, "model", 2), (20, False, "model", 2),
    (10, False, "model", 1), (11, False, "model", 0), (10, True, "model", 2), (10, False, "naive", 2),
]  # fmt: skip
ACTUALS = {10: 1.5, 11: 0.25, 12: 4.0, 20: 2.25, 50: -3.0}


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Yield a database at revision 0004, with scores and their sums, on SQLite and on Postgres."""
    if request.param == "sqlite":
        create_sqlite_file(tmp_path / "s.db")
        engine = open_engine(f"sqlite:///{tmp_path}/s.db")
    else:
        engine = open_engine(fresh_database(request.getfixturevalue("postgres")))
    migrate_to(engine, "0003")
    fill(engine)
    # this revision makes the sums from the scores
    migrate_to(engine, "0004")
    yield engine
    engine.dispose()


def fill(engine: Engine) -> None:
    with transaction(engine) as connection:
        for hour, y in ACTUALS.items():
            insert(connection, "actuals", unique_id="a", at=hour * HOUR, y=y, received_at=1)
        for number, (first, is_shadow, forecast_by, n_intervals) in enumerate(FORECASTS):
            mean = 1 + number / 4
            # thirty hours apart, so that some steps are on another day
            hours = [first, first + 1, first + 30]
            bounds = [mean - 1, mean + 1, mean - 2, mean + 2]
            bounds[2 * n_intervals :] = [np.nan] * (4 - 2 * n_intervals)
            common = {
                "forecast_id": f"r{number}-0", "model": "sine", "version": 1, "is_shadow": is_shadow,
                "forecast_by": forecast_by, "unique_id": "a",
            }  # fmt: skip
            insert(
                connection, "requests",
                request_id=f"r{number}", answered_at=1, client="", idempotency_key=None, body_digest=None, head="{}",
            )  # fmt: skip
            steps = np.array([[hour * HOUR, mean, *bounds] for hour in hours])
            insert(
                connection, "forecasts", **common,
                request_id=f"r{number}", position=0, answered_at=1, first_at=hours[0] * HOUR, last_at=hours[-1] * HOUR,
                last_value=2.0, tolerance=0, steps=pack_steps(steps), answer="{}",
            )  # fmt: skip
            for step, hour in enumerate(hours, start=1):
                if hour in ACTUALS:
                    y = ACTUALS[hour]
                    inside = {80: int(abs(y - mean) <= 1), 95: int(abs(y - mean) <= 2)}
                    insert(
                        connection, "scores", **common, step=step, at=hour * HOUR, error=mean - y, naive_error=2.0 - y,
                        is_inside_80=inside[80] if n_intervals > 0 else None,
                        is_inside_95=inside[95] if n_intervals > 1 else None,
                    )  # fmt: skip


def old_skill(engine: Engine, is_shadow: bool, forecast_by: str) -> tuple[Any, ...]:
    query = text(
        "SELECT COUNT(*), AVG(ABS(error)), AVG(error), AVG(is_inside_80 * 1.0), AVG(is_inside_95 * 1.0), "
        "COUNT(is_inside_80), COUNT(is_inside_95) FROM scores WHERE is_shadow = :is_shadow AND forecast_by = :by"
    )
    with transaction(engine) as connection:
        n, mae, bias, *coverage = connection.execute(query, {"is_shadow": is_shadow, "by": forecast_by}).one()
    return n, mae, bias, *map(float, coverage)


def new_skill(engine: Engine, is_shadow: bool, forecast_by: str) -> tuple[Any, ...]:
    (skill,) = realised_skill(engine, "sine", is_shadow=is_shadow, forecast_by=forecast_by)
    by_level = [values[level] for values in (skill.coverage, skill.n_covered) for level in ("80", "95")]
    return skill.n_scores, skill.mae, skill.bias, *by_level


def test_skill_is_the_same_after_the_migration(engine: Engine) -> None:
    kinds = [(False, "model"), (True, "model"), (False, "naive")]
    before = [old_skill(engine, *kind) for kind in kinds]
    upgrade_schema(engine)
    # Postgres adds in the order of its plan
    assert [new_skill(engine, *kind) for kind in kinds] == [pytest.approx(row, rel=1e-12) for row in before]
    # not all of these have intervals
    assert before[0][0] > before[0][-2] > before[0][-1] > 0


def test_running_sums_are_the_same_after_the_migration(engine: Engine) -> None:
    with transaction(engine) as connection:
        before = connection.execute(text("SELECT * FROM days ORDER BY day")).all()
    upgrade_schema(engine)
    with transaction(engine) as connection:
        days = connection.execute(select(DAYS).order_by(DAYS.c.day)).all()
        levels = connection.execute(select(DAY_LEVELS).order_by(DAY_LEVELS.c.day, DAY_LEVELS.c.level)).all()
    assert len(days) == 2
    assert [tuple(row) for row in days] == [tuple(row)[: len(days[0])] for row in before]
    assert [(row.day, row.level, row.n_scores, row.inside) for row in levels] == [
        (row.day, *of_level)
        for row in before
        for of_level in [(80, row.n_80, row.inside_80), (95, row.n_95, row.inside_95)]
    ]
    assert stored_sums(engine) == recomputed_sums(engine)


def test_miscoverage_rates_are_the_same_after_the_migration(engine: Engine) -> None:
    with transaction(engine) as connection:
        steps = connection.execute(text("SELECT n_times, inside_80, inside_95 FROM steps ORDER BY step")).all()
    surplus = [[0.2 * n - (n - inside_80), 0.05 * n - (n - inside_95)] for n, inside_80, inside_95 in steps]
    upgrade_schema(engine)
    rates = read_miscoverage_rates(engine, "sine", 1)["a"]
    assert rates.shape == (3, 2)
    np.testing.assert_allclose(rates, miscoverage_rates((80, 95), np.array(surplus)), rtol=1e-15)


def test_earlier_forecasts_are_read_and_scored_again_to_the_same_scores(engine: Engine) -> None:
    upgrade_schema(engine)
    ordered = select(SCORES).order_by(SCORES.c.forecast_id, SCORES.c.step)
    with transaction(engine) as connection:
        scores = connection.execute(ordered).all()
        for table in (SCORES, DAYS, DAY_LEVELS, TIMES, STEPS):
            connection.execute(delete(table))
    assert record_actuals(engine, [Actual("a", hour * HOUR, y) for hour, y in ACTUALS.items()]) == 0
    with transaction(engine) as connection:
        assert connection.execute(ordered).all() == scores
    assert len(scores) > len(FORECASTS)
    found = find_forecast(engine, "r3-0")
    assert found is not None
    assert found["actual"] == [2.25, None, -3.0]
