"""Timestamps of a request: parsing, regularity checks, and the timestamps of the forecast in the same format."""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import SeriesError
from forecaster.domain.frequency import Step
from forecaster.domain.series import Times

_EPOCH = datetime(1970, 1, 1)  # for timestamps without a zone
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
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

    def check(self, frequency: Step, where: str) -> None:
        """Check that each timestamp is one step of `frequency` after the previous one.

        Raises:
            SeriesError: timestamps are unsorted, repeated, or a row is missing.
        """
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
    def end(self) -> Hashable:
        """Return the key that determines the next timestamps."""
        return self.wall[-1], self.offset

    def next_times(self, frequency: Step, steps: int) -> Times:
        """Return the local times of the `steps` timestamps after the last one, `(steps,)`."""
        return frequency.after(self.wall[-1], steps)

    @property
    def cutoff(self) -> str:
        """Return the last timestamp in ISO 8601."""
        return self.format(self.wall[-1:])[0]

    def instants(self, times: Times) -> NDArray[np.int64]:
        """Return local times as microseconds since 1970, in UTC if the clock has a zone."""
        return (times - np.timedelta64(self.offset or timedelta(), "us")).astype("M8[us]").astype(np.int64)

    def format(self, times: Times) -> list[str]:
        """Return local times in ISO 8601, with the offset of the last timestamp."""
        times = times.astype("M8[us]")
        whole = not (times.astype(np.int64) % 1_000_000).any()
        texts = np.datetime_as_string(times, unit="s" if whole else "us")
        return [text + _suffix(self.offset) for text in texts.tolist()]


def instant(time: datetime) -> int:
    """Return a time as microseconds since 1970, in UTC if it has a zone, as `Clock.instants` does."""
    return (time - (_EPOCH if time.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND


def have_same_times(ds: list[datetime], other: list[datetime]) -> bool:
    """Return whether two series have the same timestamps in the same UTC offsets."""
    if ds != other:
        return False
    # times in different offsets compare equal when they are the same instant
    return ds[0].tzinfo is None or [time.utcoffset() for time in ds] == [time.utcoffset() for time in other]


def format_instant(microseconds: int) -> str:
    """Return microseconds since 1970 as a UTC time in ISO 8601."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_clock(ds: list[datetime], where: str) -> Clock:
    """Return the clock of a series with at least one timestamp.

    Raises:
        SeriesError: some timestamps have a zone and some have none.
    """
    has_zone = [time.tzinfo is not None for time in ds]
    if any(has_zone) != all(has_zone):
        row = has_zone.index(not has_zone[0])
        raise SeriesError(f"{where}.ds[{row}]: some timestamps have a zone and some have none; write all the same way")
    # numpy's conversion of datetime objects takes as long as a forecast
    elapsed = np.array([instant(time) for time in ds]).view("M8[us]")
    if not has_zone[0]:
        return Clock(elapsed, elapsed, None)
    offsets = [time.utcoffset() or timedelta() for time in ds]
    return Clock(elapsed + np.array(offsets, dtype="m8[us]"), elapsed, offsets[-1])


def _suffix(offset: timedelta | None) -> str:
    if offset is None:
        return ""
    if not offset:
        return "Z"
    sign = "-" if offset < timedelta() else "+"
    minutes = abs(offset) // timedelta(minutes=1)
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
