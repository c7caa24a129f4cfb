"""The migration to owners keeps what is there, and lets each key see what it asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from forecaster.database.engine import open_engine, transaction
from forecaster.database.files import make_file
from forecaster.database.keys import read_keys
from forecaster.database.schema import MIGRATIONS, bring_up_to_date
from forecaster.ledger.adaptation import read_allowed
from forecaster.ledger.entries import pack
from forecaster.ledger.reading import find_answer, find_forecast
from forecaster.ledger.scoring import Actual, take_actuals
from forecaster.ledger.skill import realised, realised_skill
from forecaster.ledger.tallies import recent
from tests.ledger.test_tallies import anew, sums
from tests.postgres import fresh_database

HOUR = 3_600_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database of revision 0003, with rows."""
    if request.param == "sqlite":
        make_file(tmp_path / "s.db")
        engine = open_engine(f"sqlite:///{tmp_path}/s.db")
    else:
        engine = open_engine(fresh_database(request.getfixturevalue("postgres")))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with transaction(engine) as connection:
        config.attributes["connection"] = connection
        config.attributes["version_table"] = "forecaster_version"
        command.upgrade(config, "0003")
    fill(engine)
    yield engine
    engine.dispose()


# key, name; and what each asked for: request, client, idempotency key, series
KEYS = [("k1", "shop"), ("k2", "shop"), ("k3", "bank")]
ASKED = [
    ("r1", "k1", "i", "a"), ("r2", "k2", "i", "a"), ("r3", "k3", "i", "a"), ("r4", "gone", None, "a"),
    ("r5", "", "i", "b"),
]  # fmt: skip


def fill(engine: Engine) -> None:
    steps = pack(np.array([[hour * HOUR, 1.0, 0.0, 2.0, -1.0, 3.0] for hour in (10, 11)]))
    with transaction(engine) as connection:

        def insert(table: str, **row: Any) -> None:
            names = ", ".join(row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(row)})"), row)

        for key, name in KEYS:
            insert("keys", key_id=key, digest="d", name=name, scopes="forecast", created_at=1)
        for request, client, idempotency_key, series in ASKED:
            insert(
                "requests", request_id=request, answered_at=1, client=client, idempotency_key=idempotency_key,
                body_digest="d", head="{}",
            )  # fmt: skip
            insert(
                "forecasts", forecast_id=f"{request}-0", request_id=request, position=0, answered_at=1, model="sine",
                version=1, is_shadow=False, forecast_by="model", unique_id=series, first_at=10 * HOUR,
                last_at=11 * HOUR, last_value=2.0, tolerance=0, steps=steps, answer="{}",
            )  # fmt: skip
        # of an hour that all of them forecast, and of a series that nobody did
        for series in ("a", "b", "c"):
            insert("actuals", unique_id=series, at=10 * HOUR, y=1.5, received_at=1)
        # the last is of a forecast that was deleted while it was scored
        for forecast in ("r1-0", "r2-0", "r3-0", "r4-0", "r5-0", "r6-0"):
            insert(
                "scores", forecast_id=forecast, step=1, at=10 * HOUR, model="sine", version=1, is_shadow=False,
                forecast_by="model", unique_id="b" if forecast == "r5-0" else "a", error=-0.5, naive_error=0.5,
                is_inside_80=1, is_inside_95=1,
            )  # fmt: skip


def test_each_key_sees_what_it_asked_for_and_nothing_is_lost(engine: Engine) -> None:
    bring_up_to_date(engine)
    assert {key.key_id: key.owner for key in read_keys(engine)} == dict(KEYS)
    owners = {"r1": "shop", "r2": "shop", "r3": "bank", "r4": "gone", "r5": ""}
    for request, owner in owners.items():
        found = find_forecast(engine, f"{request}-0", owner)
        assert found is not None
        assert found["actual"] == [1.5, None]
        for other in set(owners.values()) - {owner}:
            assert find_forecast(engine, f"{request}-0", other) is None
    # what was asked twice under one key of one name is the later's
    assert all(find_answer(engine, owner, "i", None) is not None for owner in ("shop", "bank", ""))
    for owner, count in {"shop": 2, "bank": 1, "gone": 1, "": 1}.items():
        (one,) = realised_skill(engine, "sine", owner=owner)
        assert one.n_scores == count
        assert realised(recent(engine, 0)[owner, "sine", 1]) == one
        assert read_allowed(engine, "sine", 1, owner)
    assert sums(engine) == anew(engine)


def test_what_comes_after_is_scored_for_its_owner(engine: Engine) -> None:
    bring_up_to_date(engine)
    assert take_actuals(engine, [Actual("a", 11 * HOUR, 9.0)], "bank") == 1
    assert take_actuals(engine, [Actual("a", 10 * HOUR, 1.5)], "bank") == 0
    assert realised_skill(engine, "sine", owner="bank")[0].n_scores == 2
    assert realised_skill(engine, "sine", owner="shop")[0].n_scores == 2
    assert sums(engine) == anew(engine)


def test_errors_without_measure_do_not_spoil_the_skill_of_all(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE scores SET error = 1e308, naive_error = -1e308 WHERE unique_id = 'a' AND forecast_id > 'r2'")
        )
    bring_up_to_date(engine)
    (one,) = realised_skill(engine, "sine")
    assert one.n_scores == 5
    assert one.mae == pytest.approx(6e149)
    assert sums(engine) == anew(engine)
