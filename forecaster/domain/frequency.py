"""Frequencies of time series. Needs only numpy, because the serving process imports it.

A frequency is written as in pandas, a count and a unit: `15min`, `h`, `D`, `7D`, `B`, `MS`, `3ME`.
`B` means weekdays; a missing weekday counts as a holiday, not as a gap.
Weeks, quarters and years are read as `7D`, `3MS`/`3ME` and `12MS`/`12ME`.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from forecaster.domain.errors import ConfigError, SeriesError
from forecaster.domain.series import Times

_FIXED_SECONDS = {"s": 1, "min": 60, "h": 3600, "D": 86400}
_ALIASES = {"W": (7, "D"), "QS": (3, "MS"), "QE": (3, "ME"), "YS": (12, "MS"), "YE": (12, "ME")}
# six digits suffice: a million days exceed any calendar
_NAME = re.compile(r"(\d{0,6})([A-Za-z]+)")
_DAY = np.timedelta64(1, "D")
# a weekday series may skip one closed week and the weekends around it
LONGEST_CLOSURE_DAYS = 12


class Step(Protocol):
    """The step between a series' timestamps: a frequency or an exchange's sessions."""

    @property
    def is_wall_clock(self) -> bool:
        """Whether steps are measured in the series' local time rather than in elapsed time."""

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the next `steps` timestamps after `last`, `(steps,)`, in the resolution of `last`."""

    def before(self, first: np.datetime64, steps: int) -> Times:
        """Return the `steps` timestamps before `first`, `(steps,)`, in order and in the resolution of `first`."""

    def breaks(self, timestamps: Times) -> np.ndarray:
        """Return the rows `(n,)` whose timestamp is not one step after the previous row; never the first row."""


@dataclass(frozen=True)
class Frequency:
    """A step between timestamps.

    Args:
        count: number of units in a step, at least 1.
        unit: `s`, `min`, `h`, `D`, `B` (weekdays), `MS` or `ME` (a month's first or last day).
    """

    count: int
    unit: str

    def __str__(self) -> str:
        return self.unit if self.count == 1 else f"{self.count}{self.unit}"

    @property
    def is_wall_clock(self) -> bool:
        """Whether steps are measured in the series' local time (days and longer) rather than in elapsed time."""
        return self.unit not in ("s", "min", "h")

    @cached_property
    def _fixed_step(self) -> np.timedelta64:
        return np.timedelta64(self.count * _FIXED_SECONDS[self.unit], "s")

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the next `steps` timestamps after `last`, `(steps,)`, in the resolution of `last`."""
        return self._shifted(last, np.arange(1, steps + 1), "backward")

    def before(self, first: np.datetime64, steps: int) -> Times:
        """Return the `steps` timestamps before `first`, `(steps,)`, in order and in the resolution of `first`."""
        return self._shifted(first, np.arange(-steps, 0), "forward")

    def _shifted(self, time: np.datetime64, steps: np.ndarray, roll: Literal["backward", "forward"]) -> Times:
        """Return the timestamps `steps` after `time`; a time that is not a weekday is first rolled to one."""
        ahead = steps * self.count
        if self.unit == "B":
            days = np.busday_offset(time.astype("M8[D]"), ahead, roll=roll)
            return np.asarray(days.astype(time.dtype) + (time - time.astype("M8[D]")))
        if self.unit in ("MS", "ME"):
            return self._months_after(time, ahead)
        return np.asarray(time + ahead * np.timedelta64(_FIXED_SECONDS[self.unit], "s"))

    def breaks(self, timestamps: Times) -> np.ndarray:
        """Return the rows `(n,)` whose timestamp is not one step after the previous row; never the first row."""
        if self.unit == "B":
            days = timestamps.astype("M8[D]")
            gaps = np.diff(days) / _DAY
            wrong = (gaps < 1) | (gaps > LONGEST_CLOSURE_DAYS) | ~np.is_busday(days[1:])
        elif self.unit in ("MS", "ME"):
            wrong = self._months_after(timestamps[:-1], np.full(len(timestamps) - 1, self.count)) != timestamps[1:]
        else:
            wrong = timestamps[1:] - timestamps[:-1] != self._fixed_step
        return np.flatnonzero(wrong) + 1

    def _months_after(self, last: np.datetime64 | Times, ahead: np.ndarray) -> Times:
        last = np.asarray(last)
        months = last.astype("M8[M]")
        time_of_day = last - last.astype("M8[D]")
        if self.unit == "MS":
            days = (months + ahead).astype("M8[D]")
        else:
            days = (months + ahead + 1).astype("M8[D]") - _DAY
        return np.asarray(days.astype(last.dtype) + time_of_day)


def parse(name: str) -> Frequency:
    """Parse a frequency name.

    Raises:
        ConfigError: `name` is not a count and a known unit.
    """
    match = _NAME.fullmatch(name)
    count, unit = (int(match[1] or 1), match[2]) if match else (0, "")
    times, unit = _ALIASES.get(unit, (1, unit))
    if count < 1 or unit not in (*_FIXED_SECONDS, "B", "MS", "ME") or (unit == "B" and count > 1):
        known = ", ".join((*_FIXED_SECONDS, "B", "MS", "ME", *_ALIASES))
        raise ConfigError(f"freq: '{name}' is not a frequency; write a count and one of {known}, such as 15min or B")
    return Frequency(count * times, unit)


def infer(wall: Times, where: str, elapsed: Times | None = None) -> Frequency:
    """Infer the frequency of increasing timestamps.

    Args:
        wall: local times, `(n,)`.
        where: the name of the series for error messages.
        elapsed: the same times in UTC, `(n,)`; None if the series has no time zone.

    Raises:
        SeriesError: there are fewer than three timestamps, or no single frequency fits all of them.
    """
    if len(wall) < 3:
        raise SeriesError(f"{where}: {len(wall)} timestamps are too few to infer a frequency; set freq")
    elapsed = wall if elapsed is None else elapsed
    for candidate in _candidates(wall, elapsed):
        clock = wall if candidate.is_wall_clock else elapsed
        if len(candidate.breaks(clock)) == 0 and _is_on_grid(candidate, wall[0]):
            return candidate
    steps = np.diff(elapsed if np.median(np.diff(elapsed)) < _DAY else wall)
    found, counts = np.unique(steps, return_counts=True)
    usual = found[np.argmax(counts)]
    row = int(np.flatnonzero(steps != usual)[0]) + 1
    raise SeriesError(
        f"{where}: mixed frequencies: the usual step is {_format(usual)}, but row {row} ({wall[row]}) is "
        f"{_format(steps[row - 1])} after the previous row; add the missing rows, "
        "or set freq: B for daily prices with holidays"
    )


def _candidates(wall: Times, elapsed: Times) -> list[Frequency]:
    months = np.diff(wall[:2].astype("M8[M]"))[0] / np.timedelta64(1, "M")
    candidates = [Frequency(int(months), unit) for unit in ("MS", "ME") if months >= 1]
    days = float((wall[1] - wall[0]) / _DAY)
    seconds = float((elapsed[1] - elapsed[0]) / np.timedelta64(1, "s"))
    if days >= 1 and days.is_integer():
        candidates.append(Frequency(int(days), "D"))
    elif seconds >= 1 and seconds.is_integer():
        unit = next(unit for unit in ("h", "min", "s") if seconds % _FIXED_SECONDS[unit] == 0)
        candidates.append(Frequency(int(seconds) // _FIXED_SECONDS[unit], unit))
    # only weekdays without any holiday; a series with holidays needs freq: B in the configuration
    if set(np.unique(np.diff(wall.astype("M8[D]")) / _DAY)) <= {1.0, 3.0}:
        candidates.append(Frequency(1, "B"))
    return candidates


def _is_on_grid(candidate: Frequency, first: np.datetime64) -> bool:
    day = first.astype("M8[D]")
    if candidate.unit == "MS":
        return bool(day == day.astype("M8[M]").astype("M8[D]"))
    if candidate.unit == "ME":
        return bool((day + _DAY) == (day + _DAY).astype("M8[M]").astype("M8[D]"))
    return candidate.unit != "B" or bool(np.is_busday(day))


def _format(step: np.timedelta64) -> str:
    seconds = step / np.timedelta64(1, "s")
    return f"{seconds / 86400:g} days" if seconds >= 86400 else f"{seconds:g} s"
