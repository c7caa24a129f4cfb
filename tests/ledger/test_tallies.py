"""Running sums are those of all scores read anew, whatever was corrected, forgotten or written at the same time."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import bring_up_to_date
from forecaster.database.tables import DAYS, METADATA, SCORES, STEPS, TIMES
from forecaster.ledger.adaptation import read_all_allowed
from forecaster.ledger.entries import Entry
from forecaster.ledger.retention import forget_before, forget_client, forget_owner, forget_series
from forecaster.ledger.scoring import Actual, take_actuals
from forecaster.ledger.skill import realised, realised_skill
from forecaster.ledger.tallies import recent, tally
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
    bring_up_to_date(engine)
    yield engine
    engine.dispose()


def sums(engine: Engine) -> tuple[Any, ...]:
    """Return what is known from the running sums, rounded as far as their order may change it."""
    with transaction(engine) as connection:
        times = {tuple(row) for row in connection.execute(select(TIMES))}
        steps = {
            (*row[:6], round(row.inside_80, 9), round(row.inside_95, 9)) for row in connection.execute(select(STEPS))
        }
    return {key: realised(one) for key, one in recent(engine, LONG_AGO).items()}, times, steps


def anew(engine: Engine) -> tuple[Any, ...]:
    """Return the same of all scores, summed anew."""
    with transaction(engine) as connection:
        for table in (DAYS, TIMES, STEPS):
            connection.execute(delete(table))
        tally(connection, [], [dict(row) for row in connection.execute(select(SCORES)).mappings()])
    return sums(engine)


def write(engine: Engine, *entries: Entry) -> None:
    writer = Writer(engine)
    writer.start()
    outcomes = [writer.submit([one]) for one in entries]
    assert all(isinstance(one, bool) for outcome in outcomes for one in outcome.result(timeout=30))
    writer.stop()


OWNERS = st.sampled_from(["", "shop", "bank"])
NAMES = st.sampled_from("ab")
HOURS = st.integers(-30, 30)
FORECASTS = st.tuples(
    st.just("forecast"), OWNERS, NAMES, HOURS, st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=3),
    st.integers(1, 2), st.booleans(), st.sampled_from(["model", "model", "naive"]), st.booleans(),
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
STEPS_TAKEN = st.lists(st.one_of(FORECASTS, FORECASTS, ACTUALS, ACTUALS, FORGET), min_size=1, max_size=25)


def do(engine: Engine, number: int, what: str, *how: Any) -> None:
    if what == "forecast":
        owner, name, first, mean, version, is_shadow, by, has_interval = how
        one = served(name, first, tuple(mean))
        if not has_interval:
            one.steps[:, 2:] = float("nan")
        write(
            engine,
            entry(one, at=number, client=owner, owner=owner, version=version, is_shadow=is_shadow, forecast_by=by),
        )
    elif what == "actuals":
        owner, name, is_for_all, came = how
        actuals = [Actual(name, hour * HOUR, y) for hour, y in came.items()]
        take_actuals(engine, actuals, owner, is_for_all=is_for_all)
    else:
        forget: Any = {
            "before": forget_before, "series": forget_series, "client": forget_client, "owner": forget_owner
        }[what]  # fmt: skip
        forget(engine, *how)


@settings(max_examples=40)
@given(STEPS_TAKEN)
def test_the_running_sums_are_those_of_all_scores(engine: Engine, steps: list[tuple[Any, ...]]) -> None:
    with transaction(engine) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(delete(table))
    for number, (what, *how) in enumerate(steps):
        do(engine, number, what, *how)
    assert sums(engine) == anew(engine)


def test_they_say_what_all_scores_say(engine: Engine) -> None:
    forget_before(engine, 10**17)
    write(engine, *(entry(served(name, 10, (1.0, 2.0)), at=5, owner=owner) for name in "ab" for owner in ("", "shop")))
    take_actuals(engine, [Actual("a", 10 * HOUR, 2.5), Actual("b", 11 * HOUR, 1.5)], "shop")
    take_actuals(engine, [Actual("a", 10 * HOUR, 1e150)], "shop")
    take_actuals(engine, [Actual("a", 10 * HOUR, 1.75)], "shop")
    (one,) = recent(engine, 0).values()
    (other,) = realised_skill(engine, "sine", owner="shop")
    assert realised(one) == other
    assert realised_skill(engine, "sine", owner="") == []
    assert read_all_allowed(engine).keys() == {("shop", "sine", 1)}
    assert recent(engine, 1) == {}


def test_two_who_score_at_the_same_time_leave_true_sums(engine: Engine) -> None:
    forget_before(engine, 10**17)
    url = engine.url.render_as_string(hide_password=False)
    write(engine, *(entry(served("a", first), at=first, owner="shop") for first in range(10, 40)))
    failures: list[BaseException] = []

    def send(hours: range, y: float) -> None:
        own = open_engine(url, 60)
        try:
            for hour in hours:
                take_actuals(own, [Actual("a", hour * HOUR, y)], "shop")
        except BaseException as error:
            failures.append(error)
        own.dispose()

    threads = [threading.Thread(target=send, args=(range(10, 40)[::step], float(step))) for step in (1, -1, 2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert sums(engine) == anew(engine)


def test_nothing_is_left_of_what_is_forgotten(engine: Engine, tmp_path: Path) -> None:
    forget_before(engine, 10**17)
    write(engine, *(entry(served("a", first), at=first, owner="shop") for first in range(10, 15)))
    take_actuals(engine, [Actual("a", hour * HOUR, 1.0) for hour in range(9, 18)], "shop")
    assert forget_owner(engine, "shop") == 5
    assert sums(engine) == ({}, set(), set())


def test_errors_without_measure_leave_the_others_readable(engine: Engine) -> None:
    forget_before(engine, 10**17)
    largest = 1.7e308
    write(engine, *(entry(served("a", 10, (sign * largest,)), at=5) for sign in (1, -1, 1, 1)))
    write(engine, entry(served("b", 10, (1.0,)), at=5, owner="shop"))
    take_actuals(engine, [Actual("a", 10 * HOUR, 0.0), Actual("b", 10 * HOUR, 2.0)], is_for_all=True)
    (all_,) = realised_skill(engine, "sine")
    (mine,) = realised_skill(engine, "sine", owner="shop")
    assert (all_.n_scores, mine.mae) == (5, 1.0)
    assert math.isfinite(all_.mae)
    assert math.isfinite(all_.bias)
    assert sums(engine) == anew(engine)
