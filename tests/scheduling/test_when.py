"""When jobs are due: clock changes, half days and holidays, what was the latest."""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, none, sampled_from, sets

from forecaster.data.calendars import session_edges
from forecaster.domain.errors import CalendarError
from forecaster.scheduling.when import Cron, Session

NEW_YORK = "America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def following(when: Cron | Session, moment: str, count: int) -> list[str]:
    """Return the next moments, in UTC and without the year."""
    found, due = [], at(moment)
    for _ in range(count):
        due = when.after(due)
        assert due.utcoffset() == timedelta(0)
        found.append(f"{due:%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("cron", "moment", "due"),
    [
        # 02:30 is not shown on 8 March: an hour later, and once
        ("30 2 * * *", "2026-03-07T12:00", ["03-08 07:30", "03-09 06:30"]),
        ("0,30 2 * * *", "2026-03-07T12:00", ["03-08 07:00", "03-08 07:30", "03-09 06:00"]),
        # asked when clocks have been changed, and it is yet to come
        ("30 2 * * *", "2026-03-08T07:10", ["03-08 07:30", "03-09 06:30"]),
        # 01:30 is shown twice on 1 November: the first time alone
        ("30 1 * * *", "2026-10-31T12:00", ["11-01 05:30", "11-02 06:30"]),
        ("30 1 * * *", "2026-11-01T06:10", ["11-02 06:30"]),
        # each half hour goes on each half hour
        (
            "*/30 * * * *",
            "2026-11-01T04:50",
            ["11-01 05:00", "11-01 05:30", "11-01 06:00", "11-01 06:30", "11-01 07:00"],
        ),
        ("*/30 * * * *", "2026-03-08T06:20", ["03-08 06:30", "03-08 07:00", "03-08 07:30"]),
        # the same time of day before and after the change
        ("0 9 * * mon-fri", "2026-03-06T00:00", ["03-06 14:00", "03-09 13:00", "03-10 13:00"]),
    ],
)
def test_clock_changes_neither_skip_nor_double_a_run(cron: str, moment: str, due: list[str]) -> None:
    assert following(Cron(cron=cron, zone=NEW_YORK), moment, len(due)) == due


# forward and back, by an hour, by half of one, at midnight, and over a whole day
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
def shown_about(zone: str, change: datetime) -> dict[datetime, list[datetime]]:
    """Return when a clock shows each minute about a change, by looking at it each minute."""
    shown: dict[datetime, list[datetime]] = {}
    for moment in (change + number * MINUTE for number in range(-4 * 1440, 5 * 1440)):
        shown.setdefault(moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None), []).append(moment)
    return shown


def enumerated(minutes: set[int], hours: set[int] | None, zone: str, change: datetime) -> list[datetime]:
    """Return the moments that are due about a change; hours None: each."""
    shown = shown_about(zone, change)
    wall, last, skipped, due = min(shown), max(shown), timedelta(0), set()
    while wall <= last:
        if wall not in shown:
            # as long as the clock is set forward
            skipped = skipped or next(wall + n * MINUTE for n in range(1, 1500) if wall + n * MINUTE in shown) - wall
        if wall.minute in minutes and (hours is None or wall.hour in hours):
            moments = shown.get(wall) or shown[wall + skipped]
            due.update(moments if hours is None else moments[:1])
        wall += MINUTE
    return sorted(due)


@settings(max_examples=40)
@given(
    change=sampled_from(CHANGES),
    minutes=sets(integers(0, 59), min_size=1, max_size=4),
    hours=none() | sets(integers(0, 5) | integers(0, 23), min_size=1, max_size=4),
    begin=integers(-26 * 60, 60),
    more=sets(integers(0, 30 * 3600), max_size=20),
)
def test_nothing_is_lost_or_doubled_about_a_change_of_clocks(
    change: tuple[str, str], minutes: set[int], hours: set[int] | None, begin: int, more: set[int]
) -> None:
    zone, then = change[0], at(change[1])
    when = Cron(cron=f"{_listed(minutes)} {_listed(hours) if hours else '*'} * * *", zone=zone)
    asked = then + begin * MINUTE
    wanted = [one for one in enumerated(minutes, hours, zone, then) if one > asked]
    found = [when.after(asked)]
    while found[-1] < then + timedelta(hours=26):
        found.append(when.after(found[-1]))
    assert found == wanted[: len(found)]
    # nor does it matter from when one asks
    for seconds in more:
        moment = asked + timedelta(seconds=seconds)
        assert when.after(moment) == next(one for one in wanted if one > moment)


def _listed(values: set[int]) -> str:
    return ",".join(map(str, sorted(values)))


def test_the_close_is_earlier_on_half_days_and_an_hour_off_after_a_clock_change() -> None:
    after = Session(exchange="XNYS", edge="close", minutes=45)
    # Thanksgiving is no session; on the day after, trading ends at 13:00
    assert following(after, "2026-11-24T22:00", 3) == ["11-25 21:45", "11-27 18:45", "11-30 21:45"]
    before = Session(exchange="XNYS", edge="open", minutes=-15)
    assert following(before, "2026-03-06T00:00", 2) == ["03-06 14:15", "03-09 13:15"]


def test_the_latest_is_the_last_of_those_missed_however_long_ago() -> None:
    closes = Session(exchange="XNYS", edge="close", minutes=0)
    assert closes.latest(at("2026-11-01T00:00"), at("2026-11-29T12:00")) == at("2026-11-27T18:00")
    assert closes.latest(at("2026-11-27T18:00"), at("2026-11-29T12:00")) is None
    minutely = Cron(cron="* * * * *", zone=NEW_YORK)
    assert minutely.latest(at("2025-01-01T00:00"), at("2026-11-01T06:30:30")) == at("2026-11-01T06:30")
    yearly = Cron(cron="0 3 29 2 *")
    assert yearly.latest(at("2020-01-01T00:00"), at("2026-11-29T12:00")) == at("2024-02-29T03:00")
    assert yearly.latest(at("2024-02-29T03:00"), at("2026-11-29T12:00")) is None


def test_a_process_that_runs_for_years_knows_the_sessions_of_then() -> None:
    then = datetime.now(UTC) + timedelta(days=3 * 365)
    due = Session(exchange="XNYS", edge="close", minutes=0).after(then)
    assert then < due < then + timedelta(days=5)
    with pytest.raises(CalendarError, match="no calendar 'XXXX'"):
        session_edges("XXXX", "close", then)
