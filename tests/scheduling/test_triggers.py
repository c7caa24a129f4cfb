"""Triggers: the next and the latest due time, about clock changes, half days and holidays."""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, none, sampled_from, sets

from forecaster.data.calendars import session_edges
from forecaster.domain.errors import CalendarError
from forecaster.scheduling.triggers import CronTrigger, SessionTrigger

NEW_YORK = "America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def next_moments(trigger: CronTrigger | SessionTrigger, moment: str, count: int) -> list[str]:
    """Return the next due times, in UTC and without the year."""
    moments, due = [], at(moment)
    for _ in range(count):
        due = trigger.after(due)
        assert due.utcoffset() == timedelta(0)
        moments.append(f"{due:%m-%d %H:%M}")
    return moments


@pytest.mark.parametrize(
    ("cron", "moment", "due"),
    [
        # 02:30 does not exist on 8 March: due once, an hour later
        ("30 2 * * *", "2026-03-07T12:00", ["03-08 07:30", "03-09 06:30"]),
        ("0,30 2 * * *", "2026-03-07T12:00", ["03-08 07:00", "03-08 07:30", "03-09 06:00"]),
        # after the change, but before the due time
        ("30 2 * * *", "2026-03-08T07:10", ["03-08 07:30", "03-09 06:30"]),
        # 01:30 occurs twice on 1 November: due the first time only
        ("30 1 * * *", "2026-10-31T12:00", ["11-01 05:30", "11-02 06:30"]),
        ("30 1 * * *", "2026-11-01T06:10", ["11-02 06:30"]),
        # every half hour stays every half hour
        (
            "*/30 * * * *",
            "2026-11-01T04:50",
            ["11-01 05:00", "11-01 05:30", "11-01 06:00", "11-01 06:30", "11-01 07:00"],
        ),
        ("*/30 * * * *", "2026-03-08T06:20", ["03-08 06:30", "03-08 07:00", "03-08 07:30"]),
        # the same local time before and after the change
        ("0 9 * * mon-fri", "2026-03-06T00:00", ["03-06 14:00", "03-09 13:00", "03-10 13:00"]),
    ],
)
def test_a_clock_change_neither_skips_nor_repeats_a_due_time(cron: str, moment: str, due: list[str]) -> None:
    assert next_moments(CronTrigger(cron=cron, zone=NEW_YORK), moment, len(due)) == due


# forward and back, by an hour, by half an hour, at midnight, and by a whole day
CHANGES = [
    (NEW_YORK, "2026-03-08T07:00"),
    (NEW_YORK, "2026-11-01T06:00"),
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("America/Santiago", "2026-09-06T04:00"),
    ("America/Santiago", "2026-04-05T03:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),
]
MINUTE = timedelta(minutes=1)


@cache
def moments_by_local_time(zone: str, change: datetime) -> dict[datetime, list[datetime]]:
    """Return the moments of each local minute in the days about a clock change, by enumerating all moments."""
    moments: dict[datetime, list[datetime]] = {}
    for moment in (change + n * MINUTE for n in range(-4 * 1440, 5 * 1440)):
        moments.setdefault(moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None), []).append(moment)
    return moments


def enumerate_due(minutes: set[int], hours: set[int] | None, zone: str, change: datetime) -> list[datetime]:
    """Return the due times in the days about a clock change; every hour is due when `hours` is None."""
    by_local = moments_by_local_time(zone, change)
    local, last, gap, due = min(by_local), max(by_local), timedelta(0), set()
    while local <= last:
        if local not in by_local:
            # the first minute of the gap gives its length
            gap = gap or next(local + n * MINUTE for n in range(1, 1500) if local + n * MINUTE in by_local) - local
        if local.minute in minutes and (hours is None or local.hour in hours):
            moments = by_local.get(local) or by_local[local + gap]
            due.update(moments if hours is None else moments[:1])
        local += MINUTE
    return sorted(due)


@settings(max_examples=40)
@given(
    change=sampled_from(CHANGES),
    minutes=sets(integers(0, 59), min_size=1, max_size=4),
    hours=none() | sets(integers(0, 5) | integers(0, 23), min_size=1, max_size=4),
    begin=integers(-26 * 60, 60),
    seconds=sets(integers(0, 30 * 3600), max_size=20),
)
def test_due_times_about_a_clock_change_are_those_of_an_enumeration(
    change: tuple[str, str], minutes: set[int], hours: set[int] | None, begin: int, seconds: set[int]
) -> None:
    zone, then = change[0], at(change[1])
    trigger = CronTrigger(cron=f"{_join(minutes)} {_join(hours) if hours else '*'} * * *", zone=zone)
    start = then + begin * MINUTE
    expected = [due for due in enumerate_due(minutes, hours, zone, then) if due > start]
    found = [trigger.after(start)]
    while found[-1] < then + timedelta(hours=26):
        found.append(trigger.after(found[-1]))
    assert found == expected[: len(found)]
    # from any other moment, too
    for moment in (start + timedelta(seconds=n) for n in seconds):
        assert trigger.after(moment) == next(due for due in expected if due > moment)


def _join(values: set[int]) -> str:
    return ",".join(map(str, sorted(values)))


def test_session_triggers_follow_half_days_holidays_and_clock_changes() -> None:
    after = SessionTrigger(exchange="XNYS", edge="close", minutes=45)
    # Thanksgiving has no session; on the day after, trading ends at 13:00
    assert next_moments(after, "2026-11-24T22:00", 3) == ["11-25 21:45", "11-27 18:45", "11-30 21:45"]
    before = SessionTrigger(exchange="XNYS", edge="open", minutes=-15)
    assert next_moments(before, "2026-03-06T00:00", 2) == ["03-06 14:15", "03-09 13:15"]


def test_latest_returns_the_last_due_time_however_long_ago() -> None:
    closes = SessionTrigger(exchange="XNYS", edge="close", minutes=0)
    assert closes.latest(at("2026-11-01T00:00"), at("2026-11-29T12:00")) == at("2026-11-27T18:00")
    assert closes.latest(at("2026-11-27T18:00"), at("2026-11-29T12:00")) is None
    minutely = CronTrigger(cron="* * * * *", zone=NEW_YORK)
    assert minutely.latest(at("2025-01-01T00:00"), at("2026-11-01T06:30:30")) == at("2026-11-01T06:30")
    yearly = CronTrigger(cron="0 3 29 2 *")
    assert yearly.latest(at("2020-01-01T00:00"), at("2026-11-29T12:00")) == at("2024-02-29T03:00")
    assert yearly.latest(at("2024-02-29T03:00"), at("2026-11-29T12:00")) is None


def test_session_triggers_know_sessions_years_ahead() -> None:
    then = datetime.now(UTC) + timedelta(days=3 * 365)
    due = SessionTrigger(exchange="XNYS", edge="close", minutes=0).after(then)
    assert then < due < then + timedelta(days=5)
    with pytest.raises(CalendarError, match="no calendar 'XXXX'"):
        session_edges("XXXX", "close", then)
