"""Triggers, which say when a job is due: a cron expression in a time zone, or minutes from an exchange's open or close.

Both answer two questions about moments in UTC: which due time comes next, and which was the latest.
"""

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from apscheduler.triggers.cron import CronTrigger as CronFields
from pydantic import Discriminator, Field, Tag, field_validator

from forecaster.data.calendars import NAMES, get_calendar, session_edges
from forecaster.domain.config import Config
from forecaster.domain.errors import CalendarError
from forecaster.domain.instants import from_microseconds

_TICK, _DAY = timedelta(microseconds=1), timedelta(days=1)


class CronTrigger(Config):
    """Five cron fields (minute, hour, day, month, weekday) in the local time of a zone.

    When clocks are set forward, a time in the gap is due as much later as the clocks were moved. When they are set
    back, a time of day is due the first time it occurs, and a job that runs every hour runs in both hours.
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
                "name the weekdays, such as mon-fri: numbers begin with Sunday in some programs and Monday in others"
            )
        if fields[2] != "*" and fields[4] != "*":
            raise ValueError("set the day of the month or the weekday, not both: programs disagree on what that means")
        trigger = CronFields.from_crontab(cron, UTC)
        if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError("no date matches it")
        return cron

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("unknown time zone; write it as Europe/Berlin") from error
        return zone

    def after(self, moment: datetime) -> datetime:
        """Return the first due time after `moment`, in UTC."""
        moment = moment.astimezone(UTC)
        # near a clock change of this size, moments and local times may be in a different order
        change = self._clock_change(self._clock_change(_DAY, moment), moment)
        local, due = self._next_local(self._local(moment) - change), None
        while due is None or local < self._local(due) + change:
            candidates = [candidate for candidate in (due, *self._moments(local)) if candidate and candidate > moment]
            due = min(candidates, default=None)
            local = self._next_local(local)
        return due

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last due time after `after` and no later than `until`, in UTC; None if there is none."""
        reach = timedelta(hours=1)
        while True:
            begin = max(after, until - reach)
            latest, due = None, self.after(begin)
            while due <= until:
                latest, due = due, self.after(due)
            if latest or begin == after:
                return latest
            reach *= 4

    @property
    def display_zone(self) -> str:
        """The zone in which to show due times."""
        return self.zone

    @cached_property
    def _fields(self) -> Any:
        # evaluated in UTC: in another zone, APScheduler's trigger stops in the hour that occurs twice
        return CronFields.from_crontab(self.cron, UTC)

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)

    def _clock_change(self, reach: timedelta, moment: datetime) -> timedelta:
        """Return by how much the clocks are changed within `reach` of a moment."""
        return abs(self._local(moment + reach) - self._local(moment - reach) - 2 * reach)

    def _moments(self, local: datetime) -> list[datetime]:
        """Return the due times of a local time; a time in a gap is read with the UTC offset from before the gap."""
        zone = ZoneInfo(self.zone)
        first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        is_every_hour = self.cron.split()[1] in ("*", "*/1")
        return [first, second] if is_every_hour and first < second else [first]

    def _next_local(self, local: datetime) -> datetime:
        following: datetime = self._fields.get_next_fire_time(None, local.replace(tzinfo=UTC) + _TICK)
        return following.replace(tzinfo=None)


class SessionTrigger(Config):
    """Minutes from the open or close of an exchange's sessions; half days close earlier.

    Args:
        exchange: its market identifier code, such as XNYS.
        edge: what to count from.
        minutes: after the edge; before it if negative.
    """

    exchange: str
    edge: Literal["open", "close"]
    minutes: float = Field(ge=-1440, le=1440)

    @field_validator("exchange")
    @classmethod
    def _is_exchange(cls, exchange: str) -> str:
        if exchange not in NAMES:
            raise ValueError(f"there is no calendar of this exchange; choose from {', '.join(sorted(NAMES))}")
        return exchange

    def after(self, moment: datetime) -> datetime:
        """Return the first due time after `moment`, in UTC.

        Raises:
            CalendarError: the calendar has no later session.
        """
        edges, position = self._locate(moment)
        if position == len(edges):
            raise CalendarError(f"calendar {self.exchange} ends before {moment:%Y-%m-%d}; update exchange_calendars")
        return self._due(edges[position])

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last due time after `after` and no later than `until`, in UTC; None if there is none."""
        edges, position = self._locate(until)
        due = self._due(edges[position - 1]) if position else None
        return due if due and due > after else None

    @property
    def display_zone(self) -> str:
        """The zone in which to show due times."""
        return get_calendar(self.exchange).zone

    def _locate(self, moment: datetime) -> tuple[Any, int]:
        """Return the edges of the sessions about a moment, and the index of the first edge that is due after it."""
        edges = session_edges(self.exchange, self.edge, moment)
        edge = np.datetime64((moment - self._offset).astimezone(UTC).replace(tzinfo=None), "us")
        return edges, int(np.searchsorted(edges, edge, side="right"))

    def _due(self, edge: np.datetime64) -> datetime:
        return from_microseconds(int(edge.astype(np.int64))) + self._offset

    @property
    def _offset(self) -> timedelta:
        return timedelta(minutes=self.minutes)


def _kind(raw: Any) -> str:
    is_session = "exchange" in raw if isinstance(raw, dict) else isinstance(raw, SessionTrigger)
    return "by session" if is_session else "by cron"


Trigger = Annotated[
    Annotated[CronTrigger, Tag("by cron")] | Annotated[SessionTrigger, Tag("by session")],
    Discriminator(_kind),
]
