"""Timestamps of requests: parsing them together gives what parsing them one by one gives."""

from contextlib import suppress
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.requests import Time, Timestamps, _parse_cached
from service.timestamps import Clock, clock_of, parse_uniform


def are_same(clock: Clock, other: Clock) -> bool:
    """Say whether two clocks have the same timestamps in the same UTC offsets."""
    same_times = np.array_equal(clock.wall, other.wall) and np.array_equal(clock.elapsed, other.elapsed)
    return clock.offset == other.offset and same_times


AT_ONCE = TypeAdapter(Timestamps)
ONE_BY_ONE = TypeAdapter(list[Time])
OFFSETS = ("", "Z", "+00:00", "-00:00", "+02:00", "-09:30", "+23:59", "-23:59", "+24:00", "+0200", "z", "Z ")
times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda time: time.isoformat(timespec="seconds"))
written_alike = st.builds(
    lambda stamps, width, offset: [f"{stamp[:width]}{offset if width > 10 else ''}" for stamp in stamps],
    st.lists(times, min_size=1, max_size=5),
    st.sampled_from([7, 10, 16, 19]),
    st.sampled_from(OFFSETS),
)
# digits and separators in any order, which are nearly timestamps
scrambled = st.lists(st.text("0123459-:TZ+ .", min_size=8, max_size=26), min_size=1, max_size=3)


@given(st.one_of(written_alike, scrambled))
@example(["2026-02-30T00:00:00"])
@example(["0000-01-01"])
@example(["2026-01-01T23:59:60Z"])
@example(["2026-01-01T24:00:00"])
# as many characters as two timestamps, but neither is one
@example(["2026-01-31T00:00:0", "02026-01-31T01:00:00"])
@example(["2026-01-31T00:00:00+01:00", "2026-01-31T01:00:00+02:00"])
@example(["2026-01-31T00:00:00٣"])
def test_timestamps_parsed_together_equal_those_parsed_one_by_one(written: list[str]) -> None:
    try:
        expected = ONE_BY_ONE.validate_python(written)
    except ValidationError:
        expected = None
    if expected is None or len({time.tzinfo is None for time in expected}) > 1:
        with pytest.raises(ValidationError):
            AT_ONCE.validate_python(written)
        return
    clock, reference = AT_ONCE.validate_python(written), clock_of(expected)
    assert are_same(clock, reference)
    assert clock.wall.dtype == clock.elapsed.dtype == np.dtype("M8[us]")


@pytest.mark.parametrize("offset", ["", "Z", "-09:30"])
def test_ordinary_timestamps_are_parsed_together(offset: str) -> None:
    assert parse_uniform([f"2026-01-31T{hour:02d}:00:00{offset}" for hour in range(24)]) is not None
    assert parse_uniform(["2026-01-30", "2026-01-31"]) is not None


@pytest.mark.parametrize("written", [[], [1], [None, "2026-01-31"], ["2026-01-31", ["2026-02-01"]], [["2026-01-31"]]])
def test_values_that_are_no_text_are_left_to_pydantic(written: list[object]) -> None:
    assert parse_uniform(written) is None
    if written:
        with pytest.raises(ValidationError, match="ISO 8601"):
            AT_ONCE.validate_python(written)
    else:
        assert len(AT_ONCE.validate_python(written)) == 0


def test_a_zone_that_some_timestamps_lack_is_named_by_its_row() -> None:
    with pytest.raises(ValidationError, match="some timestamps have a zone") as refused:
        AT_ONCE.validate_python(["2026-01-31T00:00:00Z", "2026-01-31T01:00:00"])
    assert refused.value.errors()[0]["loc"] == (1,)


@pytest.mark.parametrize("written", [["2026-01-31" + "\N{SNOWMAN}" * 100_000], ["2026-01-31"] * 1001])
def test_long_timestamps_are_not_kept(written: list[str]) -> None:
    kept = _parse_cached.cache_info().misses
    with suppress(ValidationError):
        AT_ONCE.validate_python(written)
    assert _parse_cached.cache_info().misses == kept


def test_clocks_with_the_same_instants_in_other_offsets_differ() -> None:
    at = datetime(2026, 1, 31, tzinfo=timezone(timedelta(hours=2)))
    utc, east = clock_of([at.astimezone(timezone(timedelta()))]), clock_of([at])
    assert (utc.elapsed == east.elapsed).all()
    assert not are_same(utc, east)


def test_shared_clocks_cannot_be_changed() -> None:
    clock = AT_ONCE.validate_python(["2026-01-31T00:00:00+02:00", "2026-01-31T01:00:00+02:00"])
    assert clock is AT_ONCE.validate_python(["2026-01-31T00:00:00+02:00", "2026-01-31T01:00:00+02:00"])
    for times in (clock.wall, clock.elapsed):
        with pytest.raises(ValueError, match="read-only"):
            times[0] = np.datetime64("2026-01-01")
