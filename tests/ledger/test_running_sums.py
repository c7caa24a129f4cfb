"""The running sums equal sums over all scores, also after corrections, deletions and concurrent writes."""

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import DAY_LEVELS, DAYS, METADATA, SCORES, STEPS, TIMES
from forecaster.domain.levels import LEVELS
from forecaster.ledger.adaptation import read_all_miscoverage_rates
from forecaster.ledger.entries import Entry
from forecaster.ledger.retention import forget_before, forget_client, forget_owner, forget_series
from forecaster.ledger.running_sums import sums_since, update_sums
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.skill import realised_skill, skill_from_sums
from forecaster.ledger.writer import Writer
from tests.ledger.test_ledger import HOUR, entry, served
from tests.postgres import fresh_database

LONG_AGO = -(10**6)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    is_local = request.param == "sqlite"
    folder = tmp_path_factory.mktemp("tallies")
    url = f"sqlite:///{folder}/l.db" if is_local else fresh_database(request.getfixturevalue("postgres"))
    engine = open_engine(url)
    upgrade_schema(engine)
    yield engine
    engine.dispose()


def stored_sums(engine: Engine) -> tuple[Any, ...]:
    """Return the skill by version and the rows of `times` and `steps`, rounded because the order of sums varies."""
    with transaction(engine) as connection:
        times = {tuple(row) for row in connection.execute(select(TIMES))}
        steps = {(*row[:-1], round(row.inside, 9)) for row in connection.execute(select(STEPS))}
    return {key: skill_from_sums(totals) for key, totals in sums_since(engine, LONG_AGO).items()}, times, steps


def recomputed_sums(engine: Engine) -> tuple[Any, ...]:
    """Rebuild the running sums from all scores, and return them."""
    with transaction(engine) as connection:
        for table in (DAYS, DAY_LEVELS, TIMES, STEPS):
            connection.execute(delete(table))
        update_sums(connection, [], [dict(row) for row in connection.execute(select(SCORES)).mappings()])
    return stored_sums(engine)


def write(engine: Engine, *entries: Entry) -> None:
    writer = Writer(engine)
    writer.start()
    futures = [writer.submit([each]) for each in entries]
    assert all(isinstance(outcome, bool) for future in futures for outcome in future.result(timeout=30))
    writer.stop()


OWNERS = st.sampled_from(["", "shop", "bank"])
NAMES = st.sampled_from("ab")
HOURS = st.integers(-30, 30)
FORECASTS = st.tuples(
    st.just("forecast"), OWNERS, NAMES, HOURS, st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=3),
    st.integers(1, 2), st.booleans(), st.sampled_from(["model", "model", "naive"]),
    # the scored levels, and how many of them have intervals
    st.sampled_from([LEVELS, (50.0, 97.5)]), st.sampled_from([0, 1, 2, 2]),
)  # fmt: skip
ACTUALS = st.tuples(
    st.just("actuals"), OWNERS, NAMES, st.booleans(),
    st.dictionaries(HOURS, st.one_of(st.floats(-10, 10), st.floats(-1e150, 1e150)), min_size=1, max_size=6),
)  # fmt: skip
FORGET = st.one_of(
    st.tuples(st.just("before"), st.integers(0, 30)),
    st.tuples(st.just("series"), NAMES),
    st.tuples(st.just("client"), OWNERS),
    st.tuples(st.just("owner"), OWNERS),
)
ACTIONS = st.lists(st.one_of(FORECASTS, FORECASTS, ACTUALS, ACTUALS, FORGET), min_size=1, max_size=25)


def perform(engine: Engine, number: int, action: str, *arguments: Any) -> None:
    if action == "forecast":
        owner, name, first, mean, version, is_shadow, by, levels, n_intervals = arguments
        forecast = served(name, first, tuple(mean), levels=levels)
        forecast.steps[:, 2 + 2 * n_intervals :] = float("nan")
        write(
            engine,
            entry(forecast, at=number, client=owner, owner=owner, version=version, is_shadow=is_shadow, forecast_by=by),
        )
    elif action == "actuals":
        owner, name, is_for_all, values = arguments
        actuals = [Actual(name, hour * HOUR, y) for hour, y in values.items()]
        record_actuals(engine, actuals, owner, is_for_all=is_for_all)
    else:
        forget: Any = {
            "before": forget_before, "series": forget_series, "client": forget_client, "owner": forget_owner
        }[action]  # fmt: skip
        forget(engine, *arguments)


@settings(max_examples=40)
@given(ACTIONS)
def test_running_sums_equal_recomputed_sums_after_any_actions(engine: Engine, actions: list[tuple[Any, ...]]) -> None:
    with transaction(engine) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(delete(table))
    for number, (action, *arguments) in enumerate(actions):
        perform(engine, number, action, *arguments)
    assert stored_sums(engine) == recomputed_sums(engine)


def test_running_sums_give_the_same_skill_as_all_scores(engine: Engine) -> None:
    forget_before(engine, 10**17)
    write(engine, *(entry(served(name, 10, (1.0, 2.0)), at=5, owner=owner) for name in "ab" for owner in ("", "shop")))
    record_actuals(engine, [Actual("a", 10 * HOUR, 2.5), Actual("b", 11 * HOUR, 1.5)], "shop")
    record_actuals(engine, [Actual("a", 10 * HOUR, 1e150)], "shop")
    record_actuals(engine, [Actual("a", 10 * HOUR, 1.75)], "shop")
    (totals,) = sums_since(engine, 0).values()
    (skill,) = realised_skill(engine, "sine", owner="shop")
    assert skill_from_sums(totals) == skill
    assert realised_skill(engine, "sine", owner="") == []
    assert read_all_miscoverage_rates(engine).keys() == {("shop", "sine", 1)}
    assert sums_since(engine, 1) == {}


def test_concurrent_scoring_keeps_the_sums_correct(engine: Engine) -> None:
    forget_before(engine, 10**17)
    url = engine.url.render_as_string(hide_password=False)
    write(engine, *(entry(served("a", first), at=first, owner="shop") for first in range(10, 40)))
    failures: list[BaseException] = []

    def send(hours: range, y: float) -> None:
        own_engine = open_engine(url, 60)
        try:
            for hour in hours:
                record_actuals(own_engine, [Actual("a", hour * HOUR, y)], "shop")
        except BaseException as error:
            failures.append(error)
        own_engine.dispose()

    threads = [threading.Thread(target=send, args=(range(10, 40)[::step], float(step))) for step in (1, -1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored_sums(engine) == recomputed_sums(engine)


def test_forgetting_an_owner_removes_its_sums(engine: Engine) -> None:
    forget_before(engine, 10**17)
    write(engine, *(entry(served("a", first), at=first, owner="shop") for first in range(10, 15)))
    record_actuals(engine, [Actual("a", hour * HOUR, 1.0) for hour in range(9, 18)], "shop")
    assert forget_owner(engine, "shop") == 5
    assert stored_sums(engine) == ({}, set(), set())


def test_huge_errors_of_one_series_keep_the_skill_of_others_exact(engine: Engine) -> None:
    forget_before(engine, 10**17)
    largest = 1.7e308
    write(engine, *(entry(served("a", 10, (sign * largest,)), at=5) for sign in (1, -1, 1, 1)))
    write(engine, entry(served("b", 10, (1.0,)), at=5, owner="shop"))
    record_actuals(engine, [Actual("a", 10 * HOUR, 0.0), Actual("b", 10 * HOUR, 2.0)], is_for_all=True)
    (of_all,) = realised_skill(engine, "sine")
    (of_shop,) = realised_skill(engine, "sine", owner="shop")
    assert (of_all.n_scores, of_shop.mae) == (5, 1.0)
    assert math.isfinite(of_all.mae)
    assert math.isfinite(of_all.bias)
    assert stored_sums(engine) == recomputed_sums(engine)
