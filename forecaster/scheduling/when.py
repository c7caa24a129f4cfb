"""When a job is due: by a cron expression in a zone, or so many minutes from an exchange's opening or close.

Both answer two questions about moments in UTC: which comes next, and which was the latest.
"""

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from apscheduler.triggers.cron import CronTrigger
from pydantic import Discriminator, Field, Tag, field_validator

from forecaster.data.calendars import NAMES, get_calendar, session_edges
from forecaster.domain.config import Config
from forecaster.domain.errors import CalendarError
from forecaster.domain.instants import as_moment

_TICK, _DAY = timedelta(microseconds=1), timedelta(days=1)


class Cron(Config):
    """Five fields (minute, hour, day, month, weekday) that a zone's clock must show.

    Where clocks are set forward, what falls into the gap is due as much later. Where they are set back, a time of day
    is due the first time that it is shown, and what is due each hour goes on each hour.
    """

    cron: str
    zone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        fields = cron.split()
        if len(fields) != 5:
            raise ValueError("write five fields: minute hour day month weekday, such as 30 7 * * mon-fri")
        if any(letter.isdigit() for letter in fields[4]):
            raise ValueError(
                "name the weekdays, such as mon-fri: numbers begin with Sunday for some and Monday for others"
            )
        if fields[2] != "*" and fields[4] != "*":
            raise ValueError("set the day of the month or the weekday, not both: programs disagree on what that means")
        trigger = CronTrigger.from_crontab(cron, UTC)
        if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError("no day is ever like that")
        return cron

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("there is no such zone; write it as Europe/Berlin") from error
        return zone

    def after(self, moment: datetime) -> datetime:
        """Return the first moment after `moment` at which it is due."""
        moment = moment.astimezone(UTC)
        # within as much of a change of clocks as that is, moments and what clocks show are not in the same order
        change = self._change_within(self._change_within(_DAY, moment), moment)
        coming, due = self._shown_after(self._shown(moment) - change), None
        while due is None or coming < self._shown(due) + change:
            due = min((one for one in [due, *self._moments(coming)] if one and one > moment), default=None)
            coming = self._shown_after(coming)
        return due

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last moment after `after`, up to `until`, at which it was due; None if there was none."""
        reach = timedelta(hours=1)
        while True:
            begin = max(after, until - reach)
            found, due = None, self.after(begin)
            while due <= until:
                found, due = due, self.after(due)
            if found or begin == after:
                return found
            reach *= 4

    @property
    def shown_in(self) -> str:
        """Return the zone that people think of it in."""
        return self.zone

    @cached_property
    def _trigger(self) -> Any:
        # as if in UTC: in a zone, the library's own trigger stands still in the hour that clocks show twice
        return CronTrigger.from_crontab(self.cron, UTC)

    def _shown(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)

    def _change_within(self, reach: timedelta, moment: datetime) -> timedelta:
        return abs(self._shown(moment + reach) - self._shown(moment - reach) - 2 * reach)

    def _moments(self, wall: datetime) -> list[datetime]:
        """Return the moments at which what a clock shows is due; one that it skips counts from before the change."""
        zone = ZoneInfo(self.zone)
        first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        is_each_hour = self.cron.split()[1] in ("*", "*/1")
        return [first, second] if is_each_hour and first < second else [first]

    def _shown_after(self, wall: datetime) -> datetime:
        found: datetime = self._trigger.get_next_fire_time(None, wall.replace(tzinfo=UTC) + _TICK)
        return found.replace(tzinfo=None)


class Session(Config):
    """Minutes from when an exchange's sessions open or close: on its sessions only, and earlier on half days.

    Args:
        exchange: its market identifier code, such as XNYS.
        edge: what is counted from.
        minutes: after it; before it if negative.
    """

    exchange: str
    edge: Literal["open", "close"]
    minutes: float = Field(ge=-1440, le=1440)

    @field_validator("exchange")
    @classmethod
    def _is_exchange(cls, exchange: str) -> str:
        if exchange not in NAMES:
            raise ValueError(f"there is no calendar of it; there are {', '.join(sorted(NAMES))}")
        return exchange

    def after(self, moment: datetime) -> datetime:
        """Return the first moment after `moment` at which it is due.

        Raises:
            CalendarError: the calendar ends before.
        """
        edges, position = self._place(moment)
        if position == len(edges):
            raise CalendarError(f"calendar {self.exchange} ends before {moment:%Y-%m-%d}; update exchange_calendars")
        return self._due(edges[position])

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last moment after `after`, up to `until`, at which it was due; None if there was none."""
        edges, position = self._place(until)
        due = self._due(edges[position - 1]) if position else None
        return due if due and due > after else None

    @property
    def shown_in(self) -> str:
        """Return the zone that people think of it in."""
        return get_calendar(self.exchange).zone

    def _place(self, moment: datetime) -> tuple[Any, int]:
        edges = session_edges(self.exchange, self.edge, moment)
        edge = np.datetime64((moment - self._offset).astimezone(UTC).replace(tzinfo=None), "us")
        return edges, int(np.searchsorted(edges, edge, side="right"))

    def _due(self, edge: np.datetime64) -> datetime:
        return as_moment(int(edge.astype(np.int64))) + self._offset

    @property
    def _offset(self) -> timedelta:
        return timedelta(minutes=self.minutes)


def _kind(raw: Any) -> str:
    is_session = "exchange" in raw if isinstance(raw, dict) else isinstance(raw, Session)
    return "by session" if is_session else "by cron"


When = Annotated[
    Annotated[Cron, Tag("by cron")] | Annotated[Session, Tag("by session")],
    Discriminator(_kind),
]
