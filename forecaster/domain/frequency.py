"""Frequencies: how far apart a series' timestamps are, and which ones come next. numpy only, for the serving process.

A frequency is written as pandas writes it: a count and a unit, `15min`, `h`, `D`, `7D`, `B`, `MS`, `3ME`.
`B` is weekdays on which an exchange may be closed: a missing weekday is a holiday and no gap.
Weeks, quarters and years are read as `7D`, `3MS`/`3ME` and `12MS`/`12ME`.
"""

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecaster.domain.errors import ConfigError, SeriesError
from forecaster.domain.series import Times

_FIXED_SECONDS = {"s": 1, "min": 60, "h": 3600, "D": 86400}
_ALIASES = {"W": (7, "D"), "QS": (3, "MS"), "QE": (3, "ME"), "YS": (12, "MS"), "YE": (12, "ME")}
# six digits are a million days, which no calendar has
_NAME = re.compile(r"(\d{0,6})([A-Za-z]+)")
_DAY = np.timedelta64(1, "D")
# A weekday series may skip a closed week and its two week-ends, not more.
LONGEST_CLOSURE_DAYS = 12


class Step(Protocol):
    """What lies between a series' timestamps: a frequency, or an exchange's sessions."""

    @property
    def is_wall_clock(self) -> bool:
        """Say whether steps are judged in the series' own zone and not in elapsed time."""

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the timestamps of the `steps` steps that follow `last`, `(steps,)`, in `last`'s resolution."""

    def breaks(self, timestamps: Times) -> np.ndarray:
        """Return the rows `(n,)` whose timestamp is not what the row before it calls for; never the first."""


@dataclass(frozen=True)
class Frequency:
    """A step between timestamps.

    Args:
        count: how many units make a step, at least 1.
        unit: `s`, `min`, `h`, `D`, `B` (weekdays), `MS` or `ME` (a month's first or last day).
    """

    count: int
    unit: str

    def __str__(self) -> str:
        return self.unit if self.count == 1 else f"{self.count}{self.unit}"

    @property
    def is_wall_clock(self) -> bool:
        """Say whether steps are judged in the series' own zone (days and longer) and not in elapsed time."""
        return self.unit not in ("s", "min", "h")

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the timestamps of the `steps` steps that follow `last`, `(steps,)`, in `last`'s resolution."""
        ahead = np.arange(1, steps + 1) * self.count
        if self.unit == "B":
            days = np.busday_offset(last.astype("M8[D]"), ahead, roll="backward")
            return np.asarray(days.astype(last.dtype) + (last - last.astype("M8[D]")))
        if self.unit in ("MS", "ME"):
            return self._months_after(last, ahead)
        return np.asarray(last + ahead * np.timedelta64(_FIXED_SECONDS[self.unit], "s"))

    def breaks(self, timestamps: Times) -> np.ndarray:
        """Return the rows `(n,)` whose timestamp is not what the row before it calls for; never the first."""
        if self.unit == "B":
            days = timestamps.astype("M8[D]")
            gaps = np.diff(days) / _DAY
            wrong = (gaps < 1) | (gaps > LONGEST_CLOSURE_DAYS) | ~np.is_busday(days[1:])
        elif self.unit in ("MS", "ME"):
            wrong = self._months_after(timestamps[:-1], np.full(len(timestamps) - 1, self.count)) != timestamps[1:]
        else:
            wrong = np.diff(timestamps) != self.count * np.timedelta64(_FIXED_SECONDS[self.unit], "s")
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
    """Return the frequency that `name` spells.

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
    """Return the one frequency that increasing timestamps keep throughout.

    Args:
        wall: as the series' own clock shows them, `(n,)`.
        where: what to call the series in an error.
        elapsed: the same in UTC, `(n,)`, where they have a zone.

    Raises:
        SeriesError: there are fewer than three timestamps or no one frequency fits them all.
    """
    if len(wall) < 3:
        raise SeriesError(f"{where}: {len(wall)} timestamps do not show a frequency; set freq")
    elapsed = wall if elapsed is None else elapsed
    for candidate in _candidates(wall, elapsed):
        clock = wall if candidate.is_wall_clock else elapsed
        if len(candidate.breaks(clock)) == 0 and _starts_well(candidate, wall[0]):
            return candidate
    steps = np.diff(elapsed if np.median(np.diff(elapsed)) < _DAY else wall)
    found, counts = np.unique(steps, return_counts=True)
    usual = found[np.argmax(counts)]
    row = int(np.flatnonzero(steps != usual)[0]) + 1
    raise SeriesError(
        f"{where}: mixed frequencies: the usual step is {_spell(usual)}, but row {row} ({wall[row]}) comes "
        f"{_spell(steps[row - 1])} after the row before; add the missing rows, "
        "or set freq: B for prices, whose exchange closes on holidays"
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
    # weekdays without a single holiday; with holidays, whoever knows the series must say B
    if set(np.unique(np.diff(wall.astype("M8[D]")) / _DAY)) <= {1.0, 3.0}:
        candidates.append(Frequency(1, "B"))
    return candidates


def _starts_well(candidate: Frequency, first: np.datetime64) -> bool:
    day = first.astype("M8[D]")
    if candidate.unit == "MS":
        return bool(day == day.astype("M8[M]").astype("M8[D]"))
    if candidate.unit == "ME":
        return bool((day + _DAY) == (day + _DAY).astype("M8[M]").astype("M8[D]"))
    return candidate.unit != "B" or bool(np.is_busday(day))


def _spell(step: np.timedelta64) -> str:
    seconds = step / np.timedelta64(1, "s")
    return f"{seconds / 86400:g} days" if seconds >= 86400 else f"{seconds:g} s"
