"""Bring a symbol's stored bars up to date: the overlap and the tail, or everything when the past has changed.

A dividend or a split changes every price before it. The overlap of stored and fetched sessions shows that; then all
of them are fetched again. One series never holds bars of two sources.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, Bars
from forecaster.data.calendars import calendar_of, get_calendar
from forecaster.data.quality import check
from forecaster.data.store import BarStore
from forecaster.domain.errors import NoData, QualityError

OVERLAP_SESSIONS = 10
_TOLERANCE = 1e-4


class Source(Protocol):
    """Where bars come from."""

    @property
    def name(self) -> str:
        """Return what is recorded with each series."""

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included, or raise a MarketDataError."""


@dataclass(frozen=True)
class Updated:
    """What an update did: bars now stored, how many of them are new, why all were fetched again, what was flagged."""

    symbol: str
    bars: int
    new: int
    refetched: str | None
    issues: tuple[str, ...]


def update(
    store: BarStore,
    source: Source,
    symbol: str,
    first: np.datetime64,
    last: np.datetime64,
    now: datetime,
    calendar: str | None = None,
) -> Updated:
    """Store a symbol's completed sessions from `first` to `last`; where anything fails the store stays as it was.

    Args:
        store: where to.
        source: where from.
        symbol: as the source spells it.
        first: the first date wanted.
        last: the last date wanted; sessions that have not ended and settled by `now` are withheld.
        now: with a zone.
        calendar: the exchange's market identifier code, where the source's name for it is not known.

    Raises:
        MarketDataError: the bars cannot be had, or break a hard rule.
        DataError: the store cannot be read or written.
    """
    with store.lock(symbol):
        old = store.read(symbol)
        if old is not None and old.origin.source != source.name:
            raise QualityError(
                symbol, f"is stored from {old.origin.source}: two sources are not mixed; remove it, or ask that source"
            )
        fresh, refetched = _fetch(source, symbol, first, last, old)
        days = get_calendar(calendar) if calendar else calendar_of(fresh.origin.exchange)
        asked_from = first if old is None else min(first, np.datetime64(old.origin.asked_from, "D"))
        merged = _merge(old if refetched is None else None, fresh, asked_from)
        merged = merged.until(days.last_completed(now))
        if len(merged) == 0:
            raise NoData(symbol, f"no session from {first} to {last} has ended yet; ask later")
        report = check(merged, days.sessions(merged.sessions[0], merged.sessions[-1]))
        report.refuse()
        if old is None or merged.origin.asked_from != old.origin.asked_from or not merged.frame.equals(old.frame):
            store.write(merged, days.due_after(merged.sessions[-1]), report)
    known = set() if old is None else set(old.sessions.tolist())
    new = sum(day not in known for day in merged.sessions.tolist())
    return Updated(symbol, len(merged), new, refetched, tuple(str(issue) for issue in report.issues))


def _fetch(
    source: Source, symbol: str, first: np.datetime64, last: np.datetime64, old: Bars | None
) -> tuple[Bars, str | None]:
    """Return the overlap and what came after it, or all there is and why."""
    if old is None:
        return source.fetch(symbol, first, last), None
    exchange, asked_from = old.origin.exchange, np.datetime64(old.origin.asked_from, "D")
    if first < asked_from:
        return source.fetch(symbol, first, max(last, old.sessions[-1]), exchange), f"the store began at {asked_from}"
    until = max(last, old.sessions[-1])
    fresh = source.fetch(symbol, old.sessions[-OVERLAP_SESSIONS:][0], until, exchange)
    changed = _what_changed(old, fresh)
    if changed:
        return source.fetch(symbol, asked_from, until, exchange), changed
    return fresh, None


def _what_changed(old: Bars, fresh: Bars) -> str | None:
    both = pd.merge(old.frame, fresh.frame, left_index=True, right_index=True, suffixes=("", "_now"))
    lost = np.setdiff1d(old.sessions[-OVERLAP_SESSIONS:], fresh.sessions)
    if len(lost):
        return f"session {lost[0]} is gone"
    for name, before, now in (
        ("close", both[CLOSE], both[f"{CLOSE}_now"]),
        ("adjustment", both[ADJUSTED_CLOSE] / both[CLOSE], both[f"{ADJUSTED_CLOSE}_now"] / both[f"{CLOSE}_now"]),
    ):
        wrong = np.flatnonzero(~np.isclose(now, before, rtol=_TOLERANCE))
        if len(wrong):
            return f"the {name} of {both.index[wrong[0]]:%Y-%m-%d} changed"
    return None


def _merge(old: Bars | None, fresh: Bars, first: np.datetime64) -> Bars:
    """Return the old bars up to where the fresh ones begin, and those; the overlap is the fresh one's, volumes too."""
    if old is None:
        return replace(fresh, origin=replace(fresh.origin, asked_from=str(first)))
    frame = pd.concat([old.before(fresh.sessions[0]).frame, fresh.frame])
    return replace(fresh, frame=frame, origin=replace(fresh.origin, asked_from=old.origin.asked_from))
