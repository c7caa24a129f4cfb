"""The ledger: served forecasts are stored and found, actuals score them, and repeated requests change nothing."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS, SCORES
from forecaster.domain.errors import DatabaseUnavailable, RequestError
from forecaster.domain.levels import LEVELS
from forecaster.ledger.entries import (
    WALL_CLOCK_TOLERANCE,
    Entry,
    ServedForecast,
    count_steps,
    forecast_id,
    match_actuals,
    new_request_id,
    pack_steps,
    unpack_steps,
)
from forecaster.ledger.queries import find_answer, find_forecast, latest_forecasts
from forecaster.ledger.retention import forget_before, forget_client, forget_series
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.skill import realised_skill
from forecaster.ledger.writer import Writer

HOUR = 3_600_000_000


@pytest.fixture
def writer(engine: Engine) -> Iterator[Writer]:
    writer = Writer(engine)
    writer.start()
    yield writer
    writer.stop()


def served(
    unique_id: str = "a",
    first: int = 10,
    mean: tuple[float, ...] = (1.0, 2.0),
    last: float = 3.0,
    levels: tuple[float, ...] = LEVELS,
) -> ServedForecast:
    """Return an hourly forecast with intervals of mean ± 1 (the first level, 80 %) and mean ± 2 (the second, 95 %).

    Args:
        unique_id: the series.
        first: the hour of the first step, since 1970.
        mean: of each step.
        last: the last value before the forecast.
        levels: two levels.
    """
    rows = [[(first + step) * HOUR, y, y - 1, y + 1, y - 2, y + 2] for step, y in enumerate(mean)]
    answer = json.dumps({"unique_id": unique_id, "mean": mean})
    return ServedForecast(unique_id, last, np.array(rows), answer, levels=levels)


def entry(*forecasts: ServedForecast, at: int = 1_000_000, **changes: Any) -> Entry:
    head = json.dumps({"model": {"name": "sine"}})
    return replace(Entry(new_request_id(at), at, "", "sine", 1, "model", head, forecasts or (served(),)), **changes)


def record(writer: Writer, new: Entry) -> bool:
    """Write an entry; return whether it is new."""
    (outcome,) = writer.submit([new]).result(timeout=30)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def count(engine: Engine, table: Any) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_a_forecast_is_found_as_it_was_served_with_its_actuals(writer: Writer) -> None:
    request = entry(served(), served("b", mean=(5.0, 6.0)))
    assert record(writer, request)
    record_actuals(writer.engine, [Actual("b", 11 * HOUR, 6.5)])
    found = find_forecast(writer.engine, forecast_id(request.request_id, 1))
    assert found == {
        "model": {"name": "sine"},
        "answered_at": 1_000_000,
        "is_shadow": False,
        "forecast": {"unique_id": "b", "mean": [5.0, 6.0]},
        "actual": [None, 6.5],
    }
    assert find_forecast(writer.engine, "nobody-0") is None


def test_the_latest_forecasts_of_a_series_come_newest_first(writer: Writer) -> None:
    for number in range(3):
        record(writer, entry(served(mean=(float(number),)), at=number))
    latest = latest_forecasts(writer.engine, "sine", "a", 2)
    assert [forecast["forecast"]["mean"] for forecast in latest] == [[2.0], [1.0]]
    assert latest_forecasts(writer.engine, "other", "a", 2) == []


def test_entries_from_many_threads_are_all_written(writer: Writer) -> None:
    entries = [entry() for _ in range(400)]

    def send(part: list[Entry]) -> None:
        assert all(record(writer, each) for each in part)

    threads = [threading.Thread(target=send, args=(entries[begin::8],)) for begin in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(writer.engine, FORECASTS) == 400
    assert all(find_forecast(writer.engine, forecast_id(each.request_id, 0)) for each in entries)


def test_an_idempotency_key_is_stored_once_for_each_owner(writer: Writer) -> None:
    first = entry(idempotency_key="k", body_digest="d")
    assert record(writer, first)
    assert not record(writer, entry(idempotency_key="k", body_digest="d"))
    # another owner may use the same key
    assert record(writer, entry(idempotency_key="k", client="else", owner="else"))
    assert count(writer.engine, FORECASTS) == 2
    found = find_answer(writer.engine, "", "k", "d")
    assert found is not None
    assert (found.forecasts, found.body_digest) == ([first.forecasts[0].answer], "d")
    # for another request under the same key, the forecasts are not read
    other = find_answer(writer.engine, "", "k", "e")
    assert other is not None
    assert (other.forecasts, other.body_digest) == ([], "d")
    assert find_answer(writer.engine, "", "other", None) is None


def test_realised_skill_equals_a_calculation_by_hand(writer: Writer) -> None:
    record(writer, entry(served(mean=(1.0, 2.0), last=3.0), served("b", mean=(5.0, 5.0), last=4.0)))
    # a: errors -0.5 and -1.5 (outside 80 %), naive errors 1.5 and -0.5; b: error 2.5, naive error 1.5
    actuals = [Actual("a", 10 * HOUR, 1.5), Actual("a", 11 * HOUR, 3.5), Actual("b", 10 * HOUR, 2.5)]
    assert record_actuals(writer.engine, actuals) == 3
    (skill,) = realised_skill(writer.engine, "sine")
    assert (skill.n_scores, skill.group) == (3, None)
    assert skill.mae == pytest.approx((0.5 + 1.5 + 2.5) / 3)
    assert skill.relative_mae == pytest.approx((0.5 + 1.5 + 2.5) / (1.5 + 0.5 + 1.5))
    assert skill.bias == pytest.approx((-0.5 - 1.5 + 2.5) / 3)
    assert skill.coverage == pytest.approx({"80": 1 / 3, "95": 2 / 3})
    by_series = realised_skill(writer.engine, "sine", "unique_id")
    assert {(group.group, group.n_scores) for group in by_series} == {("a", 2), ("b", 1)}
    by_step = realised_skill(writer.engine, "sine", "step")
    assert [(group.group, group.n_scores) for group in by_step] == [(1, 2), (2, 1)]
    assert [group.group for group in realised_skill(writer.engine, "sine", "day")] == [0]
    assert [group.group for group in realised_skill(writer.engine, "sine", "version", unique_id="b")] == [1]
    assert realised_skill(writer.engine, "sine", version=2) == []
    assert realised_skill(writer.engine, "sine", since=11 * HOUR)[0].n_scores == 1
    with pytest.raises(RequestError, match="by: 'colour' is unknown; choose from"):
        realised_skill(writer.engine, "sine", "colour")


def test_actuals_within_the_tolerance_of_a_step_are_matched(writer: Writer) -> None:
    day = replace(served(first=24, mean=(1.0, 2.0)), tolerance=WALL_CLOCK_TOLERANCE)
    day.steps[:, 0] = [24 * HOUR, 48 * HOUR]
    request = entry(day, served("b", first=24))
    record(writer, request)
    # the clocks are set forward before the second day; the hourly series has no tolerance
    times = [("a", 24), ("a", 47), ("b", 23), ("b", 26)]
    record_actuals(writer.engine, [Actual(name, at * HOUR, float(at)) for name, at in times])
    daily, hourly = (find_forecast(writer.engine, forecast_id(request.request_id, number)) for number in range(2))
    assert daily is not None
    assert hourly is not None
    assert (daily["actual"], hourly["actual"]) == ([24.0, 47.0], [None, None])
    assert realised_skill(writer.engine, "sine")[0].n_scores == 2


@given(
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    actuals=st.sets(st.integers(0, 60), min_size=1),
    tolerance=st.integers(0, 3),
)
def test_a_step_is_matched_with_the_nearest_actual(steps: list[int], actuals: set[int], tolerance: int) -> None:
    ordered = sorted(actuals)
    for step, found in zip(steps, match_actuals(np.array(steps), np.array(ordered), tolerance), strict=True):
        nearest = min(abs(at - step) for at in ordered)
        assert found == -1 if nearest > tolerance else abs(ordered[found] - step) == nearest


def test_skill_without_intervals_has_no_coverage_and_without_naive_error_no_ratio(writer: Writer) -> None:
    forecast = served(mean=(1.0,), last=2.0)
    forecast.steps[:, 2:] = np.nan
    record(writer, entry(forecast))
    record_actuals(writer.engine, [Actual("a", 10 * HOUR, 2.0)])
    (skill,) = realised_skill(writer.engine, "sine")
    assert (skill.coverage, skill.relative_mae) == ({}, None)


def test_repeated_actuals_change_nothing_and_corrected_actuals_replace(writer: Writer) -> None:
    record(writer, entry())
    actuals = [Actual("a", 10 * HOUR, 1.0), Actual("a", 99 * HOUR, 1.0)]
    assert record_actuals(writer.engine, actuals) == 2
    assert record_actuals(writer.engine, actuals) == 0
    assert realised_skill(writer.engine, "sine")[0].mae == 0
    assert record_actuals(writer.engine, [Actual("a", 10 * HOUR, 4.0)]) == 1
    (skill,) = realised_skill(writer.engine, "sine")
    assert (skill.n_scores, skill.mae) == (1, 3)
    # of two actuals for the same time the last counts
    record_actuals(writer.engine, [Actual("a", 10 * HOUR, 9.0), Actual("a", 10 * HOUR, 2.0)])
    assert realised_skill(writer.engine, "sine")[0].mae == 1


def test_a_forecast_made_after_its_actuals_is_scored_when_they_are_sent_again(writer: Writer) -> None:
    actuals = [Actual("a", 10 * HOUR, 1.0)]
    record_actuals(writer.engine, actuals)
    record(writer, entry())
    assert realised_skill(writer.engine, "sine") == []
    assert record_actuals(writer.engine, actuals) == 0
    assert realised_skill(writer.engine, "sine")[0].n_scores == 1


def test_shadow_and_baseline_forecasts_are_scored_separately(writer: Writer) -> None:
    record(writer, entry(served(mean=(1.0,))))
    record(writer, entry(served(mean=(4.0,)), version=2, is_shadow=True))
    record(writer, entry(served(mean=(9.0,)), forecast_by="naive"))
    record_actuals(writer.engine, [Actual("a", 10 * HOUR, 1.0)])
    assert [group.mae for group in realised_skill(writer.engine, "sine")] == [0]
    assert [group.mae for group in realised_skill(writer.engine, "sine", is_shadow=True)] == [3]
    assert [group.mae for group in realised_skill(writer.engine, "sine", forecast_by="naive")] == [8]
    assert count(writer.engine, SCORES) == 3


def test_writing_without_a_database_or_its_tables_is_an_error(tmp_path: Path) -> None:
    writer = Writer(open_engine(f"sqlite:///{tmp_path}/l.db"))
    writer.start()
    with pytest.raises(DatabaseUnavailable, match="is not there"):
        record(writer, entry())
    # an empty database has no tables
    (tmp_path / "l.db").touch()
    with pytest.raises(DatabaseUnavailable, match="no such table"):
        record(writer, entry())
    upgrade_schema(writer.engine)
    assert record(writer, entry())
    writer.stop()


def test_an_entry_that_cannot_be_written_does_not_block_the_others(writer: Writer) -> None:
    invalid = entry(served(), at=2**70)
    entries = [entry(), invalid, entry()]
    with pytest.raises((DatabaseUnavailable, OverflowError)):
        record(writer, invalid)
    outcomes = writer.submit(entries).result(timeout=30)
    assert [outcome is True for outcome in outcomes] == [True, False, True]
    assert count(writer.engine, FORECASTS) == 2


def test_a_cancelled_entry_is_not_written_and_does_not_stop_the_writer(engine: Engine) -> None:
    writer = Writer(engine)
    assert writer.submit([entry()]).cancel()
    writer.start()
    assert record(writer, entry())
    assert count(engine, FORECASTS) == 1
    assert writer.is_alive
    writer.stop()


def test_a_farther_actual_does_not_replace_a_nearer_one(writer: Writer) -> None:
    day = replace(served(first=24, mean=(1.0,)), tolerance=WALL_CLOCK_TOLERANCE)
    record(writer, entry(day))
    record_actuals(writer.engine, [Actual("a", 24 * HOUR, 1.0)])
    record_actuals(writer.engine, [Actual("a", 25 * HOUR, 90.0)])
    assert realised_skill(writer.engine, "sine")[0].mae == 0


def test_skill_by_day_includes_days_before_1970(writer: Writer) -> None:
    for hours in (-25, -23, -1, 0, 23):
        record(writer, entry(served(first=hours, mean=(1.0,))))
    record_actuals(writer.engine, [Actual("a", hours * HOUR, 1.0) for hours in (-25, -23, -1, 0, 23)])
    groups = realised_skill(writer.engine, "sine", "day")
    assert [(group.group, group.n_scores) for group in groups] == [(-2, 1), (-1, 2), (0, 2)]


def test_forgetting_deletes_forecasts_scores_actuals_and_requests(writer: Writer) -> None:
    old, new = entry(served(), served("b"), at=5, idempotency_key="k"), entry(at=10**16, client="c")
    for each in (old, new):
        record(writer, each)
    record_actuals(writer.engine, [Actual(name, 10 * HOUR, 1.0) for name in "ab"])
    assert forget_series(writer.engine, "b") == 1
    # the answer lacks a series now, so it is not repeated
    assert find_answer(writer.engine, "", "k", None) is None
    assert (count(writer.engine, FORECASTS), count(writer.engine, SCORES), count(writer.engine, ACTUALS)) == (2, 2, 1)
    assert forget_before(writer.engine, 10) == 1
    assert (count(writer.engine, FORECASTS), count(writer.engine, SCORES), count(writer.engine, REQUESTS)) == (1, 1, 1)
    assert forget_client(writer.engine, "c") == 1
    assert (count(writer.engine, FORECASTS), count(writer.engine, SCORES), count(writer.engine, REQUESTS)) == (0, 0, 0)


VALUES = st.floats(allow_nan=True, allow_infinity=False)


@given(st.integers(0, 3).flatmap(lambda n: st.lists(st.tuples(*[VALUES] * (2 + 2 * n)), min_size=1, max_size=5)))
def test_steps_survive_packing(rows: list[tuple[float, ...]]) -> None:
    levels = [80, 95, 99][: len(rows[0]) // 2 - 1]
    packed = pack_steps(np.array(rows))
    np.testing.assert_array_equal(unpack_steps(packed, levels), np.array(rows))
    assert count_steps(len(packed), levels) == len(rows)


def test_request_ids_sort_by_time_and_are_unique() -> None:
    ids = [new_request_id(at * 1000) for at in range(1000)]
    assert ids == sorted(ids)
    assert len({new_request_id(5) for _ in range(1000)}) == 1000
