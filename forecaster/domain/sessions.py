"""An exchange's sessions as a frequency: a step leads to the next session. Needs only numpy, as serving does."""

from datetime import date
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from forecaster.domain.errors import CalendarError
from forecaster.domain.series import Floats, Times


def _is_a_date(text: str) -> str:
    date.fromisoformat(text)
    return text


Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_is_a_date)]


class Sessions(BaseModel):
    """The sessions of an exchange between two dates, compact enough for a manifest.

    Args:
        name: the exchange's market identifier code, `24/7` or `24/5`.
        first: the first known date, ISO 8601.
        last: the last known date, ISO 8601.
        weekmask: for Monday to Sunday, `1` if the exchange ever opens on that weekday.
        closed: the holidays, that is, the closed days on these weekdays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    first: Date
    last: Date
    weekmask: str = Field(pattern=r"^[01]{7}$")
    closed: tuple[Date, ...]

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.first > self.last or "1" not in self.weekmask:
            raise ValueError("weekmask must have a session, and first must not be after last")
        return self

    def __str__(self) -> str:
        return self.name

    @property
    def is_wall_clock(self) -> bool:
        """Return True: steps are measured in the series' local time."""
        return True

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the next `steps` sessions after `last`, `(steps,)`, with its resolution and time of day.

        Raises:
            CalendarError: `last` or a returned session lies outside the known dates.
        """
        self._check_reach(np.asarray(last))
        ahead = np.arange(1, steps + 1)
        days = np.busday_offset(last.astype("M8[D]"), ahead, roll="backward", busdaycal=self._calendar)
        if days[-1] > np.datetime64(self.last):
            raise CalendarError(
                f"calendar {self.name} ends on {self.last}, less than {steps} sessions after {last.astype('M8[D]')}; "
                "request fewer steps, or retrain the model"
            )
        return np.asarray(days.astype(last.dtype) + (last - last.astype("M8[D]")))

    def before(self, first: np.datetime64, steps: int) -> Times:
        """Return the `steps` sessions before `first`, `(steps,)`, in order, with its resolution and time of day.

        Raises:
            CalendarError: `first` or a returned session lies outside the known dates.
        """
        self._check_reach(np.asarray(first))
        behind = np.arange(-steps, 0)
        days = np.busday_offset(first.astype("M8[D]"), behind, roll="forward", busdaycal=self._calendar)
        self._check_reach(days)
        return np.asarray(days.astype(first.dtype) + (first - first.astype("M8[D]")))

    def breaks(self, timestamps: Times) -> np.ndarray:
        """Return the rows `(n,)` that are not the session after the previous row; never the first row.

        Raises:
            CalendarError: a timestamp lies outside the known dates.
        """
        self._check_reach(timestamps)
        days = timestamps.astype("M8[D]")
        steps = np.busday_count(days[:-1], days[1:], busdaycal=self._calendar)
        is_session = np.is_busday(days, busdaycal=self._calendar)
        return np.flatnonzero((steps != 1) | ~is_session[1:] | ~is_session[:-1]) + 1

    def since_holiday(self, timestamps: Times, farthest: int) -> Floats:
        """Return the number of sessions since the last holiday before each timestamp, at most `farthest`.

        A holiday is a closed day on a weekday of the week mask.

        Raises:
            CalendarError: a timestamp lies outside the known dates.
        """
        self._check_reach(timestamps)
        days = timestamps.astype("M8[D]")
        holidays = np.concatenate(([np.datetime64(self.first)], self._calendar.holidays))
        before = holidays[np.searchsorted(holidays, days, side="right") - 1]
        return np.minimum(np.busday_count(before, days, busdaycal=self._calendar), farthest).astype(np.float64)

    def until_holiday(self, timestamps: Times, farthest: int) -> Floats:
        """Return the number of sessions until the next holiday after each timestamp, at most `farthest`.

        Raises:
            CalendarError: the calendar ends too early to find the next holiday.
        """
        self._check_reach(timestamps)
        days = timestamps.astype("M8[D]")
        beyond = np.datetime64(self.last) + np.timedelta64(1, "D")
        holidays = np.concatenate((self._calendar.holidays, [beyond]))
        after = holidays[np.searchsorted(holidays, days)]
        sessions = np.busday_count(days + np.timedelta64(1, "D"), after, busdaycal=self._calendar)
        if ((after == beyond) & (sessions < farthest)).any():
            raise CalendarError(
                f"calendar {self.name} ends on {self.last}, too early to find the next holiday after {days.max()}; "
                "request fewer steps, or retrain the model"
            )
        # on a holiday itself the count would be -1
        return np.clip(sessions, 0, farthest).astype(np.float64)

    def _check_reach(self, timestamps: Times) -> None:
        days = timestamps.astype("M8[D]")
        if days.size and (days.min() < np.datetime64(self.first) or days.max() > np.datetime64(self.last)):
            raise CalendarError(
                f"calendar {self.name} covers {self.first} to {self.last}, but the timestamps cover {days.min()} to "
                f"{days.max()}; remove the rows outside the calendar, or retrain the model"
            )

    @cached_property
    def _calendar(self) -> np.busdaycalendar:
        return np.busdaycalendar(self.weekmask, np.array(self.closed, dtype="M8[D]"))
