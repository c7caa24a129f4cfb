"""The ledger: what was served is found again, what came scores it, and what is sent again changes nothing."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import bring_up_to_date
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS, SCORES
from forecaster.domain.errors import DatabaseUnavailable, RequestError
from forecaster.ledger.entries import (
    WALL_CLOCK_TOLERANCE,
    Entry,
    Served,
    forecast_id,
    matches,
    new_request_id,
    pack,
    unpack,
)
from forecaster.ledger.reading import find_answer, find_forecast, latest_forecasts
from forecaster.ledger.retention import forget_before, forget_client, forget_series
from forecaster.ledger.scoring import Actual, take_actuals
from forecaster.ledger.skill import realised_skill
from forecaster.ledger.writer import Outcome, Writer

HOUR = 3_600_000_000


@pytest.fixture
def writer(engine: Engine) -> Iterator[Writer]:
    writer = Writer(engine)
    writer.start()
    yield writer
    writer.stop()


def served(unique_id: str = "a", first: int = 10, mean: tuple[float, ...] = (1.0, 2.0), last: float = 3.0) -> Served:
    """Return an hourly forecast whose 80 % interval reaches 1, and whose 95 % interval 2 around the mean."""
    rows = [[(first + number) * HOUR, one, one - 1, one + 1, one - 2, one + 2] for number, one in enumerate(mean)]
    return Served(unique_id, last, np.array(rows), json.dumps({"unique_id": unique_id, "mean": mean}))


def entry(*forecasts: Served, at: int = 1_000_000, **changes: Any) -> Entry:
    head = json.dumps({"model": {"name": "sine"}})
    return replace(Entry(new_request_id(at), at, "", "sine", 1, "model", head, forecasts or (served(),)), **changes)


def record(writer: Writer, one: Entry) -> bool:
    (outcome,) = writer.submit([one]).result(timeout=30)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def count(engine: Engine, table: Any) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_a_forecast_is_found_as_it_was_served_with_what_came(writer: Writer) -> None:
    one = entry(served(), served("b", mean=(5.0, 6.0)))
    assert record(writer, one)
    take_actuals(writer.engine, [Actual("b", 11 * HOUR, 6.5)])
    found = find_forecast(writer.engine, forecast_id(one.request_id, 1))
    assert found == {
        "model": {"name": "sine"},
        "answered_at": 1_000_000,
        "is_shadow": False,
        "forecast": {"unique_id": "b", "mean": [5.0, 6.0]},
        "actual": [None, 6.5],
    }
    assert find_forecast(writer.engine, "nobody-0") is None


def test_a_series_forecasts_come_newest_first(writer: Writer) -> None:
    for number in range(3):
        record(writer, entry(served(mean=(float(number),)), at=number))
    latest = latest_forecasts(writer.engine, "sine", "a", 2)
    assert [one["forecast"]["mean"] for one in latest] == [[2.0], [1.0]]
    assert latest_forecasts(writer.engine, "other", "a", 2) == []


def test_many_that_come_together_are_each_written(writer: Writer) -> None:
    entries = [entry() for _ in range(400)]

    def send(part: list[Entry]) -> None:
        assert all(record(writer, one) for one in part)

    together = [threading.Thread(target=send, args=(entries[begin::8],)) for begin in range(8)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert count(writer.engine, FORECASTS) == 400
    assert all(find_forecast(writer.engine, forecast_id(one.request_id, 0)) for one in entries)


def test_an_idempotency_key_is_answered_once(writer: Writer) -> None:
    first = entry(idempotency_key="k", body_digest="d")
    assert record(writer, first)
    assert not record(writer, entry(idempotency_key="k", body_digest="d"))
    # another owner's key is another
    assert record(writer, entry(idempotency_key="k", client="else", owner="else"))
    assert count(writer.engine, FORECASTS) == 2
    found = find_answer(writer.engine, "", "k", "d")
    assert found is not None
    assert (found.forecasts, found.body_digest) == ([first.forecasts[0].answer], "d")
    # nobody gets it for another request, so it is not read, however large it is
    other = find_answer(writer.engine, "", "k", "e")
    assert other is not None
    assert (other.forecasts, other.body_digest) == ([], "d")
    assert find_answer(writer.engine, "", "other", None) is None


def test_scores_are_those_of_a_hand(writer: Writer) -> None:
    record(writer, entry(served(mean=(1.0, 2.0), last=3.0), served("b", mean=(5.0, 5.0), last=4.0)))
    # a: errors -.5 and -1.5, outside 80 % the second time; of the last value .5 + 1 = 1.5 and -.5; b: error 2.5, 1.5
    sent = [Actual("a", 10 * HOUR, 1.5), Actual("a", 11 * HOUR, 3.5), Actual("b", 10 * HOUR, 2.5)]
    assert take_actuals(writer.engine, sent) == 3
    (whole,) = realised_skill(writer.engine, "sine")
    assert (whole.n_scores, whole.group) == (3, None)
    assert whole.mae == pytest.approx((0.5 + 1.5 + 2.5) / 3)
    assert whole.relative_mae == pytest.approx((0.5 + 1.5 + 2.5) / (1.5 + 0.5 + 1.5))
    assert whole.bias == pytest.approx((-0.5 - 1.5 + 2.5) / 3)
    assert whole.coverage == pytest.approx({"80": 1 / 3, "95": 2 / 3})
    by_series = realised_skill(writer.engine, "sine", "unique_id")
    assert {(one.group, one.n_scores) for one in by_series} == {("a", 2), ("b", 1)}
    assert [(one.group, one.n_scores) for one in realised_skill(writer.engine, "sine", "step")] == [(1, 2), (2, 1)]
    assert [one.group for one in realised_skill(writer.engine, "sine", "day")] == [0]
    assert [one.group for one in realised_skill(writer.engine, "sine", "version", unique_id="b")] == [1]
    assert realised_skill(writer.engine, "sine", version=2) == []
    assert realised_skill(writer.engine, "sine", since=11 * HOUR)[0].n_scores == 1
    with pytest.raises(RequestError, match="by: 'colour' is none of"):
        realised_skill(writer.engine, "sine", "colour")


def test_a_day_is_matched_across_a_clock_change_and_an_hour_is_not(writer: Writer) -> None:
    day = replace(served(first=24, mean=(1.0, 2.0)), tolerance=WALL_CLOCK_TOLERANCE)
    day.steps[:, 0] = [24 * HOUR, 48 * HOUR]
    one = entry(day, served("b", first=24))
    record(writer, one)
    # the clocks are put forward before the second day
    came = [("a", 24), ("a", 47), ("b", 23), ("b", 26)]
    take_actuals(writer.engine, [Actual(name, at * HOUR, float(at)) for name, at in came])
    first, second = (find_forecast(writer.engine, forecast_id(one.request_id, number)) for number in range(2))
    assert first is not None
    assert second is not None
    assert (first["actual"], second["actual"]) == ([24.0, 47.0], [None, None])
    assert realised_skill(writer.engine, "sine")[0].n_scores == 2


@given(
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    came=st.sets(st.integers(0, 60), min_size=1),
    tolerance=st.integers(0, 3),
)
def test_an_actual_is_of_the_step_that_it_is_nearest_to(steps: list[int], came: set[int], tolerance: int) -> None:
    ordered = sorted(came)
    for step, found in zip(steps, matches(np.array(steps), np.array(ordered), tolerance), strict=True):
        nearest = min(abs(at - step) for at in ordered)
        assert found == -1 if nearest > tolerance else abs(ordered[found] - step) == nearest


def test_without_intervals_there_is_no_coverage_and_without_error_no_ratio(writer: Writer) -> None:
    bare = served(mean=(1.0,), last=2.0)
    bare.steps[:, 2:] = np.nan
    record(writer, entry(bare))
    take_actuals(writer.engine, [Actual("a", 10 * HOUR, 2.0)])
    (whole,) = realised_skill(writer.engine, "sine")
    assert (whole.coverage, whole.relative_mae) == ({}, None)


def test_what_is_sent_again_changes_nothing_and_what_is_corrected_counts(writer: Writer) -> None:
    record(writer, entry())
    came = [Actual("a", 10 * HOUR, 1.0), Actual("a", 99 * HOUR, 1.0)]
    assert take_actuals(writer.engine, came) == 2
    assert take_actuals(writer.engine, came) == 0
    assert realised_skill(writer.engine, "sine")[0].mae == 0
    assert take_actuals(writer.engine, [Actual("a", 10 * HOUR, 4.0)]) == 1
    (whole,) = realised_skill(writer.engine, "sine")
    assert (whole.n_scores, whole.mae) == (1, 3)
    # of two in one request the last counts
    take_actuals(writer.engine, [Actual("a", 10 * HOUR, 9.0), Actual("a", 10 * HOUR, 2.0)])
    assert realised_skill(writer.engine, "sine")[0].mae == 1


def test_a_forecast_made_after_its_actuals_is_scored_when_they_are_sent_again(writer: Writer) -> None:
    came = [Actual("a", 10 * HOUR, 1.0)]
    take_actuals(writer.engine, came)
    record(writer, entry())
    assert realised_skill(writer.engine, "sine") == []
    assert take_actuals(writer.engine, came) == 0
    assert realised_skill(writer.engine, "sine")[0].n_scores == 1


def test_what_nobody_saw_is_scored_apart(writer: Writer) -> None:
    record(writer, entry(served(mean=(1.0,))))
    record(writer, entry(served(mean=(4.0,)), version=2, is_shadow=True))
    record(writer, entry(served(mean=(9.0,)), forecast_by="naive"))
    take_actuals(writer.engine, [Actual("a", 10 * HOUR, 1.0)])
    assert [one.mae for one in realised_skill(writer.engine, "sine")] == [0]
    assert [one.mae for one in realised_skill(writer.engine, "sine", is_shadow=True)] == [3]
    assert [one.mae for one in realised_skill(writer.engine, "sine", forecast_by="naive")] == [8]
    assert count(writer.engine, SCORES) == 3


def test_who_waits_on_a_database_that_is_gone_is_told(tmp_path: Path) -> None:
    writer = Writer(open_engine(f"sqlite:///{tmp_path}/l.db"))
    writer.start()
    with pytest.raises(DatabaseUnavailable, match="is not there"):
        record(writer, entry())
    # no tables: as good as gone
    (tmp_path / "l.db").touch()
    with pytest.raises(DatabaseUnavailable, match="no such table"):
        record(writer, entry())
    bring_up_to_date(writer.engine)
    assert record(writer, entry())
    writer.stop()


def test_what_one_of_them_cannot_have_does_not_keep_the_others_from_theirs(writer: Writer) -> None:
    bad = entry(served(), at=2**70)
    together = [entry(), bad, entry()]
    with pytest.raises((DatabaseUnavailable, OverflowError)):
        record(writer, bad)
    outcomes = writer.submit(together).result(timeout=30)
    assert [outcome is True for outcome in outcomes] == [True, False, True]
    assert count(writer.engine, FORECASTS) == 2


def test_who_no_longer_waits_does_not_end_the_writer(writer: Writer) -> None:
    gone: Future[list[Outcome]] = Future()
    assert gone.cancel()
    writer._write([([entry()], gone)])
    assert count(writer.engine, FORECASTS) == 0
    assert record(writer, entry())
    assert writer.is_alive


def test_a_nearer_actual_is_not_replaced_by_one_that_is_further(writer: Writer) -> None:
    day = replace(served(first=24, mean=(1.0,)), tolerance=WALL_CLOCK_TOLERANCE)
    record(writer, entry(day))
    take_actuals(writer.engine, [Actual("a", 24 * HOUR, 1.0)])
    take_actuals(writer.engine, [Actual("a", 25 * HOUR, 90.0)])
    assert realised_skill(writer.engine, "sine")[0].mae == 0


def test_days_before_1970_are_days_too(writer: Writer) -> None:
    for hours in (-25, -23, -1, 0, 23):
        record(writer, entry(served(first=hours, mean=(1.0,))))
    take_actuals(writer.engine, [Actual("a", hours * HOUR, 1.0) for hours in (-25, -23, -1, 0, 23)])
    found = realised_skill(writer.engine, "sine", "day")
    assert [(one.group, one.n_scores) for one in found] == [(-2, 1), (-1, 2), (0, 2)]


def test_what_is_forgotten_leaves_nothing_behind(writer: Writer) -> None:
    old, new = entry(served(), served("b"), at=5, idempotency_key="k"), entry(at=10**16, client="c")
    for one in (old, new):
        record(writer, one)
    take_actuals(writer.engine, [Actual(name, 10 * HOUR, 1.0) for name in "ab"])
    assert forget_series(writer.engine, "b") == 1
    # an answer that lacks a series is not repeated
    assert find_answer(writer.engine, "", "k", None) is None
    assert (count(writer.engine, FORECASTS), count(writer.engine, SCORES), count(writer.engine, ACTUALS)) == (2, 2, 1)
    assert forget_before(writer.engine, 10) == 1
    assert (count(writer.engine, FORECASTS), count(writer.engine, SCORES), count(writer.engine, REQUESTS)) == (1, 1, 1)
    assert forget_client(writer.engine, "c") == 1
    assert (count(writer.engine, FORECASTS), count(writer.engine, SCORES), count(writer.engine, REQUESTS)) == (0, 0, 0)


@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=False)] * 6), min_size=1, max_size=5))
def test_steps_come_back_as_they_were(rows: list[tuple[float, ...]]) -> None:
    np.testing.assert_array_equal(unpack(pack(np.array(rows))), np.array(rows))


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_request_id(at * 1000) for at in range(1000)]
    assert ids == sorted(ids)
    assert len({new_request_id(5) for _ in range(1000)}) == 1000
