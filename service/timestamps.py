"""Timestamps of a request: parsing, regularity checks, and the timestamps of the forecast in the same format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import SeriesError
from forecaster.domain.frequency import Step
from forecaster.domain.series import Times

_EPOCH = datetime(1970, 1, 1)  # for timestamps without a zone
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# the layout of a date and a time, in which 0 stands for any digit
_LAYOUT = np.frombuffer(b"0000-00-00T00:00:00", np.uint8)
_IS_DIGIT = np.equal(_LAYOUT, ord("0"))
_DATE_WIDTH, _TIME_WIDTH = 10, 19
_ZONE = re.compile(r"(?:Z|(?P<sign>[+-])(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d))?")


@dataclass(frozen=True, eq=False)
class Clock:
    """The timestamps of a series.

    Args:
        wall: local time as written, `(n,)`, datetime64[us].
        elapsed: the same in UTC if they have a zone, else as written, `(n,)`, datetime64[us].
        offset: the UTC offset of the last timestamp; None without a zone.
    """

    wall: Times
    elapsed: Times
    offset: timedelta | None
    # the frequencies that `check` has found the timestamps to have, because requests share clocks
    _checked: list[Step] = field(default_factory=list, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.wall)

    def check(self, frequency: Step, where: str) -> None:
        """Check that each timestamp is one step of `frequency` after the previous one.

        Raises:
            SeriesError: timestamps are unsorted, repeated, or a row is missing.
        """
        if frequency not in self._checked:
            self._check(frequency, where)
            self._checked.append(frequency)

    def _check(self, frequency: Step, where: str) -> None:
        is_unsorted = self.elapsed[1:] <= self.elapsed[:-1]
        if is_unsorted.any():
            row = int(is_unsorted.argmax()) + 1
            raise SeriesError(
                f"{where}.ds[{row}]: {self.wall[row]} is not after the previous time; sort by ds and remove duplicates"
            )
        breaks = frequency.breaks(self.wall if frequency.is_wall_clock else self.elapsed)
        if len(breaks):
            raise SeriesError(
                f"{where}.ds[{breaks[0]}]: {self.wall[breaks[0]]} is not one step of {frequency} after "
                f"{self.wall[breaks[0] - 1]}; add the missing rows or use a model of this frequency"
            )

    @property
    def end(self) -> "End":
        """Return what determines the next timestamps."""
        return End(int(self.wall[-1:].view(np.int64)[0]), self.offset)


@dataclass(frozen=True, slots=True)
class End:
    """The last timestamp of a series.

    Args:
        wall: local time as written, microseconds since 1970.
        offset: its UTC offset; None without a zone.
    """

    wall: int
    offset: timedelta | None

    def upcoming(self, frequency: Step, steps: int) -> "Upcoming":
        """Return the `steps` timestamps after this one, in its format."""
        last = np.datetime64(self.wall, "us")
        times = np.concatenate([[last], frequency.after(last, steps)])
        instants = (times[1:] - np.timedelta64(self.offset or timedelta(), "us")).astype("M8[us]").astype(np.int64)
        instants.flags.writeable = False
        cutoff, *texts = self._format(times)
        return Upcoming(cutoff, tuple(texts), instants)

    def _format(self, times: Times) -> list[str]:
        """Return local times in ISO 8601, with the offset of the last timestamp."""
        times = times.astype("M8[us]")
        whole = not (times.astype(np.int64) % 1_000_000).any()
        texts = np.datetime_as_string(times, unit="s" if whole else "us")
        return [text + _suffix(self.offset) for text in texts.tolist()]


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The timestamps of a forecast.

    Args:
        cutoff: the last timestamp of the history, ISO 8601.
        ds: the timestamps of the steps, ISO 8601.
        instants: the same in microseconds since 1970, in UTC if the history has a zone, `(steps,)`.
    """

    cutoff: str
    ds: tuple[str, ...]
    instants: NDArray[np.int64]


def instant(time: datetime) -> int:
    """Return a time as microseconds since 1970, in UTC if it has a zone, as `Upcoming.instants` has it."""
    return (time - (_EPOCH if time.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND


def format_instant(microseconds: int) -> str:
    """Return microseconds since 1970 as a UTC time in ISO 8601."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_uniform(ds: Sequence[Any]) -> Clock | None:
    """Return the clock of dates, or of dates and times such as `2026-01-31T00:00:00`, that have the same UTC offset.

    They are parsed together, which takes a fraction of the time.

    Returns:
        None if the timestamps are written in another way; pydantic parses them one by one.
    """
    try:
        text, (width,) = "".join(ds).encode("ascii"), set(map(len, ds))
    # a value that is no text, another character, or several widths
    except (TypeError, UnicodeEncodeError, ValueError):
        return None
    is_date = width == _DATE_WIDTH
    zone = _ZONE.fullmatch(ds[0][_TIME_WIDTH:])
    if (width < _TIME_WIDTH and not is_date) or zone is None:
        return None
    rows, layout = np.frombuffer(text, np.uint8).reshape(-1, width), _LAYOUT[:width]
    written, suffixes = rows[:, : len(layout)], rows[:, len(layout) :]
    is_in_layout = np.where(_IS_DIGIT[:width], written - ord("0") < 10, written == layout).all()
    # pydantic refuses the year 0
    if not is_in_layout or (suffixes != suffixes[0]).any() or not (written[:, :4] != ord("0")).any(axis=1).all():
        return None
    try:
        wall = np.ascontiguousarray(written).view(f"S{len(layout)}")[:, 0].astype("M8[us]")
    except ValueError:
        # there is no such day or time
        return None
    offset = _offset(zone)
    elapsed = (wall - np.timedelta64(offset, "us")).astype("M8[us]") if offset else wall
    return _clock(wall, elapsed, offset)


def clock_of(times: Sequence[datetime]) -> Clock:
    """Return the clock of timestamps that all have a zone, or all have none."""
    # numpy's conversion of datetime objects takes as long as a forecast
    elapsed = np.array([instant(time) for time in times], np.int64).view("M8[us]")
    offsets = [time.utcoffset() for time in times]
    if not offsets or offsets[-1] is None:
        return _clock(elapsed, elapsed, None)
    return _clock(elapsed + np.array(offsets, dtype="m8[us]"), elapsed, offsets[-1])


def _clock(wall: Times, elapsed: Times, offset: timedelta | None) -> Clock:
    # series share clocks
    wall.flags.writeable = elapsed.flags.writeable = False
    return Clock(wall, elapsed, offset)


def _offset(zone: re.Match[str]) -> timedelta | None:
    if not zone[0] or zone[0] == "Z":
        return timedelta() if zone[0] else None
    offset = timedelta(hours=int(zone["hours"]), minutes=int(zone["minutes"]))
    return -offset if zone["sign"] == "-" else offset


def _suffix(offset: timedelta | None) -> str:
    if offset is None:
        return ""
    if not offset:
        return "Z"
    sign = "-" if offset < timedelta() else "+"
    minutes = abs(offset) // timedelta(minutes=1)
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
