"""Timestamps of a request: zones kept as they came, regularity judged, the coming ones answered the same way."""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import SeriesError
from forecaster.domain.frequency import Step
from forecaster.domain.series import Times

_EPOCH = datetime(1970, 1, 1)  # of series without a zone
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Clock:
    """A series' timestamps.

    Args:
        wall: as written, `(n,)`, datetime64[us].
        elapsed: in UTC where there are zones, else as written, `(n,)`.
        offset: the last one's distance from UTC; None without a zone.
    """

    wall: Times
    elapsed: Times
    offset: timedelta | None

    def check(self, frequency: Step, where: str) -> None:
        """Raise SeriesError where a timestamp is not one step of `frequency` after the one before it."""
        is_backwards = self.elapsed[1:] <= self.elapsed[:-1]
        if is_backwards.any():
            row = int(is_backwards.argmax()) + 1
            raise SeriesError(
                f"{where}.ds[{row}]: {self.wall[row]} is not after the one before it; sort by ds and remove duplicates"
            )
        breaks = frequency.breaks(self.wall if frequency.is_wall_clock else self.elapsed)
        if len(breaks):
            raise SeriesError(
                f"{where}.ds[{breaks[0]}]: {self.wall[breaks[0]]} is not one step of {frequency} after "
                f"{self.wall[breaks[0] - 1]}; add the missing rows or ask a model of this frequency"
            )

    @property
    def end(self) -> Hashable:
        """Return what decides which timestamps come."""
        return self.wall[-1], self.offset

    def coming(self, frequency: Step, steps: int) -> Times:
        """Return the `steps` timestamps after the last one, by its own clock."""
        return frequency.after(self.wall[-1], steps)

    @property
    def cutoff(self) -> str:
        """Return the last timestamp."""
        return self.spell(self.wall[-1:])[0]

    def instants(self, times: Times) -> NDArray[np.int64]:
        """Return timestamps of this clock in microseconds since 1970, of UTC where there are zones."""
        return (times - np.timedelta64(self.offset or timedelta(), "us")).astype("M8[us]").astype(np.int64)

    def spell(self, times: Times) -> list[str]:
        """Return timestamps of this clock in ISO 8601, in the last one's offset."""
        times = times.astype("M8[us]")
        whole = not (times.astype(np.int64) % 1_000_000).any()
        texts = np.datetime_as_string(times, unit="s" if whole else "us")
        return [text + _suffix(self.offset) for text in texts.tolist()]


def instant(time: datetime) -> int:
    """Return a time in microseconds since 1970, of UTC where it has a zone; as `Clock.instants` does."""
    return (time - (_EPOCH if time.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND


def has_same_times(ds: list[datetime], other: list[datetime]) -> bool:
    """Say whether timestamps are the same and were written in the same offsets."""
    if ds != other:
        return False
    # the same instant, written in another offset, is equal too
    return ds[0].tzinfo is None or [one.utcoffset() for one in ds] == [one.utcoffset() for one in other]


def spell_instant(microseconds: int) -> str:
    """Return a time in microseconds since 1970 in ISO 8601, UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_clock(ds: list[datetime], where: str) -> Clock:
    """Return a request's timestamps, at least one.

    Raises:
        SeriesError: some have a zone and some have none.
    """
    has_zone = [time.tzinfo is not None for time in ds]
    if any(has_zone) != all(has_zone):
        row = has_zone.index(not has_zone[0])
        raise SeriesError(f"{where}.ds[{row}]: some timestamps have a zone and some have none; write all the same way")
    # numpy's own conversion takes as long as a forecast
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
