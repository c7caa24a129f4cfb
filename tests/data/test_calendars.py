"""Calendars: sessions, half days, holidays, crypto and currencies, and errors outside the calendar."""

from datetime import UTC, datetime

import numpy as np
import pytest

from forecaster.data.calendars import YAHOO_EXCHANGES, calendar_of, get_calendar
from forecaster.domain.errors import CalendarError


def days(*names: str) -> list[np.datetime64]:
    return [np.datetime64(name) for name in names]


def test_sessions_exclude_holidays_and_weekends() -> None:
    found = get_calendar("XNYS").sessions(np.datetime64("2025-12-23"), np.datetime64("2025-12-29"))
    assert found.tolist() == [day.item() for day in days("2025-12-23", "2025-12-24", "2025-12-26", "2025-12-29")]
    assert get_calendar("XNYS").after(np.datetime64("2025-12-24"), 2).tolist() == [
        day.item() for day in days("2025-12-26", "2025-12-29")
    ]


def test_last_completed_waits_half_an_hour_after_the_close() -> None:
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


def test_crypto_trades_daily_and_currencies_on_weekdays() -> None:
    first, last = np.datetime64("2025-12-20"), np.datetime64("2025-12-28")
    assert len(calendar_of("CCC").sessions(first, last)) == 9
    assert len(calendar_of("CCY").sessions(first, last)) == 5


def test_dates_outside_the_calendar_raise_calendar_error() -> None:
    calendar = get_calendar("XNYS")
    with pytest.raises(CalendarError, match=f"calendar XNYS ends on {calendar.last}, less than 600 sessions after"):
        calendar.after(np.datetime64("2026-11-02"), 600)
    with pytest.raises(CalendarError, match="but 1900-01-01 to 2020-01-01 was requested"):
        calendar.sessions(np.datetime64("1900-01-01"), np.datetime64("2020-01-01"))


def test_unknown_calendars_and_exchanges_raise_calendar_error() -> None:
    with pytest.raises(CalendarError, match=r"no calendar 'XXXX'; choose from .*XNYS"):
        get_calendar("XXXX")
    with pytest.raises(CalendarError, match="exchange 'MARS' has no known calendar"):
        calendar_of("MARS")


def test_every_known_exchange_has_a_calendar() -> None:
    import exchange_calendars

    known = set(exchange_calendars.get_calendar_names())
    assert set(YAHOO_EXCHANGES.values()) <= known
