"""Sessions as a frequency: the next sessions, missing sessions, and the end of the calendar."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data.calendars import get_calendar
from forecaster.domain.errors import CalendarError
from forecaster.domain.sessions import Sessions

NAMES = ["XNYS", "XTAE", "XTKS", "24/7", "24/5"]


@given(name=st.sampled_from(NAMES), start=st.integers(0, 10_000), steps=st.integers(1, 60), hour=st.integers(0, 23))
def test_after_returns_the_next_sessions_of_the_exchange(name: str, start: int, steps: int, hour: int) -> None:
    calendar = get_calendar(name)
    sessions = Sessions.model_validate_json(calendar.as_frequency().model_dump_json())
    days = calendar.sessions(np.datetime64(sessions.first), np.datetime64(sessions.last))
    chosen = days[start % (len(days) - 61) :][: steps + 1].astype("M8[us]")
    times = np.asarray(chosen + np.timedelta64(hour, "h"), dtype="M8[us]")
    np.testing.assert_array_equal(sessions.after(times[0], steps), times[1:])
    assert len(sessions.breaks(times)) == 0


def test_breaks_finds_missing_sessions_and_accepts_holidays() -> None:
    sessions = get_calendar("XNYS").as_frequency()
    days = np.array(
        ["2025-12-23", "2025-12-24", "2025-12-26", "2025-12-30", "2025-12-31", "2026-01-01"], dtype="M8[ns]"
    )
    # 29 December is missing, and New Year's Day is not a session
    assert sessions.breaks(days).tolist() == [3, 5]


def test_dates_outside_the_calendar_raise_calendar_error() -> None:
    sessions = get_calendar("XNYS").as_frequency()
    last = get_calendar("XNYS").last
    with pytest.raises(CalendarError, match=f"calendar XNYS ends on {last}, less than 5 sessions after"):
        sessions.after(last - np.timedelta64(1, "D"), 5)
    with pytest.raises(CalendarError, match=f"calendar XNYS covers 1962-01-02 to {last}, but the timestamps"):
        sessions.breaks(np.array(["1961-12-29", "1962-01-02"], dtype="M8[D]"))
