"""Calendars: sessions, half-days, holidays, crypto and currencies; what lies beyond is an error."""

from datetime import UTC, datetime

import numpy as np
import pytest

from forecaster.data.calendars import YAHOO_EXCHANGES, calendar_of, get_calendar
from forecaster.domain.errors import CalendarError


def days(*names: str) -> list[np.datetime64]:
    return [np.datetime64(name) for name in names]


def test_holidays_and_week_ends_are_no_sessions() -> None:
    found = get_calendar("XNYS").sessions(np.datetime64("2025-12-23"), np.datetime64("2025-12-29"))
    assert found.tolist() == [day.item() for day in days("2025-12-23", "2025-12-24", "2025-12-26", "2025-12-29")]
    assert get_calendar("XNYS").after(np.datetime64("2025-12-24"), 2).tolist() == [
        day.item() for day in days("2025-12-26", "2025-12-29")
    ]


def test_a_session_is_complete_half_an_hour_after_its_close_and_a_half_day_earlier() -> None:
    calendar = get_calendar("XNYS")
    # 16:00 in New York is 21:00 UTC in winter; on Christmas Eve the exchange closes at 13:00
    for now, last in (
        (datetime(2025, 12, 23, 21, 29, tzinfo=UTC), "2025-12-22"),
        (datetime(2025, 12, 23, 21, 30, tzinfo=UTC), "2025-12-23"),
        (datetime(2025, 12, 24, 18, 29, tzinfo=UTC), "2025-12-23"),
        (datetime(2025, 12, 24, 18, 30, tzinfo=UTC), "2025-12-24"),
        (datetime(2025, 12, 25, 23, 0, tzinfo=UTC), "2025-12-24"),
    ):
        assert calendar.last_completed(now) == np.datetime64(last)


def test_crypto_never_closes_and_currencies_close_at_week_ends() -> None:
    first, last = np.datetime64("2025-12-20"), np.datetime64("2025-12-28")
    assert len(calendar_of("CCC").sessions(first, last)) == 9
    assert len(calendar_of("CCY").sessions(first, last)) == 5


def test_beyond_the_end_is_a_clear_error() -> None:
    calendar = get_calendar("XNYS")
    with pytest.raises(CalendarError, match=f"calendar XNYS ends on {calendar.last}, before 600 sessions after"):
        calendar.after(np.datetime64("2026-11-02"), 600)
    with pytest.raises(CalendarError, match="asked for 1900-01-01"):
        calendar.sessions(np.datetime64("1900-01-01"), np.datetime64("2020-01-01"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CalendarError, match=r"no calendar 'XXXX'; there are .*XNYS"):
        get_calendar("XXXX")
    with pytest.raises(CalendarError, match="exchange 'MARS' has no calendar in the table"):
        calendar_of("MARS")


def test_every_exchange_of_the_table_has_a_calendar() -> None:
    import exchange_calendars

    known = set(exchange_calendars.get_calendar_names())
    assert set(YAHOO_EXCHANGES.values()) <= known
