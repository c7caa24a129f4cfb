"""Calendar features match values computed by hand and depend on each date alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data.calendar_features import FARTHEST_SESSIONS, FEATURES, calendar_features, check_names
from forecaster.data.calendars import get_calendar
from forecaster.domain.errors import CalendarError, ConfigError
from forecaster.domain.frequency import parse

NEW_YORK = get_calendar("XNYS").as_frequency()


def feature_values(name: str, times: list[str]) -> list[float]:
    values = calendar_features([name], np.array(times, dtype="M8[s]"), NEW_YORK)[:, 0]
    return [float(value) for value in values]


def test_features_of_time_and_date_match_values_computed_by_hand() -> None:
    times = ["2025-11-24T00:30:00", "2025-11-30T23:59:59", "2025-12-31T12:00:00", "2026-01-01T00:00:00"]
    assert feature_values("hour_of_day", times) == pytest.approx([-0.5, 0.5, 12 / 23 - 0.5, -0.5])
    # Monday, Sunday, Wednesday, Thursday
    assert feature_values("day_of_week", times) == pytest.approx([-0.5, 0.5, 2 / 6 - 0.5, 0.0])
    assert feature_values("day_of_month", times) == pytest.approx([23 / 30 - 0.5, 29 / 30 - 0.5, 0.5, -0.5])
    assert feature_values("month", times) == pytest.approx([10 / 11 - 0.5, 10 / 11 - 0.5, 0.5, -0.5])


def test_holiday_features_count_sessions_around_thanksgiving_and_christmas() -> None:
    days = ["2025-11-25", "2025-11-26", "2025-11-28", "2025-12-01", "2025-12-23", "2025-12-24", "2025-12-26"]
    until, since = (10 * np.array(feature_values(f"sessions_{side}_holiday", days)) + 5 for side in ("until", "since"))
    assert until == pytest.approx([1, 0, 10, 10, 1, 0, 3])
    # the exchange opens on Veterans Day, so the last holiday before Thanksgiving is Labor Day
    assert since == pytest.approx([10, 10, 0, 1, 10, 10, 0])


@given(start=st.integers(0, 5_000), name=st.sampled_from(list(FEATURES)), width=st.integers(1, 30))
def test_features_depend_on_the_date_alone_and_stay_in_range(start: int, name: str, width: int) -> None:
    days = np.datetime64("2010-01-04") + start + np.arange(2 * width).reshape(2, width)
    together = calendar_features([name], days, NEW_YORK)
    assert together.shape == (2, width, 1)
    assert (np.abs(together) <= 0.5).all()
    one_by_one = [calendar_features([name], np.array([day]), NEW_YORK)[0, 0] for day in days.ravel()]
    np.testing.assert_array_equal(together.ravel(), one_by_one)


def test_holiday_after_the_end_of_the_calendar_is_an_error() -> None:
    last = np.array([NEW_YORK.last], dtype="M8[D]")
    with pytest.raises(CalendarError, match="too early to find the next holiday"):
        calendar_features(["sessions_until_holiday"], last, NEW_YORK)
    calendar_features(["sessions_since_holiday"], last, NEW_YORK)
    early = last - 4 * FARTHEST_SESSIONS
    calendar_features(["sessions_until_holiday"], early, NEW_YORK)


def test_check_names_refuses_unknown_and_unsupported_features() -> None:
    with pytest.raises(ConfigError, match=r"\['weekday'\] are unknown; choose from \['hour_of_day'"):
        check_names(["weekday"], NEW_YORK)
    with pytest.raises(ConfigError, match="need an exchange's sessions"):
        check_names(["month", "sessions_since_holiday"], parse("B") and None)
