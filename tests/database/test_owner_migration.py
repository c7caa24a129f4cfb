"""The migration that adds owners keeps all rows, and each key sees its own forecasts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import read_keys
from forecaster.database.schema import upgrade_schema
from forecaster.database.sqlite_files import create_sqlite_file
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.ledger.entries import pack_steps
from forecaster.ledger.queries import find_answer, find_forecast
from forecaster.ledger.running_sums import sums_since
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.skill import realised_skill, skill_from_sums
from tests.database.revisions import insert, migrate_to
from tests.ledger.test_running_sums import recomputed_sums, stored_sums
from tests.postgres import fresh_database

HOUR = 3_600_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Yield a database at revision 0003, with rows, on SQLite and on Postgres."""
    if request.param == "sqlite":
        create_sqlite_file(tmp_path / "s.db")
        engine = open_engine(f"sqlite:///{tmp_path}/s.db")
    else:
        engine = open_engine(fresh_database(request.getfixturevalue("postgres")))
    migrate_to(engine, "0003")
    fill(engine)
    yield engine
    engine.dispose()


# id and name
KEYS = [("k1", "shop"), ("k2", "shop"), ("k3", "bank")]
# request, key, idempotency key, series
REQUESTS = [
    ("r1", "k1", "i", "a"), ("r2", "k2", "i", "a"), ("r3", "k3", "i", "a"), ("r4", "gone", None, "a"),
    ("r5", "", "i", "b"),
]  # fmt: skip


def fill(engine: Engine) -> None:
    steps = pack_steps(np.array([[hour * HOUR, 1.0, 0.0, 2.0, -1.0, 3.0] for hour in (10, 11)]))
    with transaction(engine) as connection:
        for key, name in KEYS:
            insert(connection, "keys", key_id=key, digest="d", name=name, scopes="forecast", created_at=1)
        for request, client, idempotency_key, series in REQUESTS:
            insert(
                connection, "requests",
                request_id=request, answered_at=1, client=client, idempotency_key=idempotency_key,
                body_digest="d", head="{}",
            )  # fmt: skip
            insert(
                connection, "forecasts",
                forecast_id=f"{request}-0", request_id=request, position=0, answered_at=1, model="sine",
                version=1, is_shadow=False, forecast_by="model", unique_id=series, first_at=10 * HOUR,
                last_at=11 * HOUR, last_value=2.0, tolerance=0, steps=steps, answer="{}",
            )  # fmt: skip
        # of an hour that all forecasts include, and of a series without forecasts
        for series in ("a", "b", "c"):
            insert(connection, "actuals", unique_id=series, at=10 * HOUR, y=1.5, received_at=1)
        # the last forecast was deleted while it was scored
        for forecast in ("r1-0", "r2-0", "r3-0", "r4-0", "r5-0", "r6-0"):
            insert(
                connection, "scores",
                forecast_id=forecast, step=1, at=10 * HOUR, model="sine", version=1, is_shadow=False,
                forecast_by="model", unique_id="b" if forecast == "r5-0" else "a", error=-0.5, naive_error=0.5,
                is_inside_80=1, is_inside_95=1,
            )  # fmt: skip


def test_each_owner_sees_its_own_forecasts_actuals_and_skill(engine: Engine) -> None:
    upgrade_schema(engine)
    assert {key.key_id: key.owner for key in read_keys(engine)} == dict(KEYS)
    owners = {"r1": "shop", "r2": "shop", "r3": "bank", "r4": "gone", "r5": ""}
    for request, owner in owners.items():
        found = find_forecast(engine, f"{request}-0", owner)
        assert found is not None
        assert found["actual"] == [1.5, None]
        for other in set(owners.values()) - {owner}:
            assert find_forecast(engine, f"{request}-0", other) is None
    # two keys named `shop` used the same idempotency key: the later request keeps it
    assert all(find_answer(engine, owner, "i", None) is not None for owner in ("shop", "bank", ""))
    for owner, count in {"shop": 2, "bank": 1, "gone": 1, "": 1}.items():
        (skill,) = realised_skill(engine, "sine", owner=owner)
        assert skill.n_scores == count
        assert skill_from_sums(sums_since(engine, 0)[owner, "sine", 1]) == skill
        assert read_miscoverage_rates(engine, "sine", 1, owner)
    assert stored_sums(engine) == recomputed_sums(engine)


def test_actuals_after_the_migration_score_their_owners_forecasts(engine: Engine) -> None:
    upgrade_schema(engine)
    assert record_actuals(engine, [Actual("a", 11 * HOUR, 9.0)], "bank") == 1
    assert record_actuals(engine, [Actual("a", 10 * HOUR, 1.5)], "bank") == 0
    assert realised_skill(engine, "sine", owner="bank")[0].n_scores == 2
    assert realised_skill(engine, "sine", owner="shop")[0].n_scores == 2
    assert stored_sums(engine) == recomputed_sums(engine)


def test_huge_errors_are_clipped_so_that_the_skill_stays_finite(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE scores SET error = 1e308, naive_error = -1e308 WHERE unique_id = 'a' AND forecast_id > 'r2'")
        )
    upgrade_schema(engine)
    (skill,) = realised_skill(engine, "sine")
    assert skill.n_scores == 5
    assert skill.mae == pytest.approx(6e149)
    assert stored_sums(engine) == recomputed_sums(engine)
