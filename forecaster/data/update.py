"""Bring a symbol's stored bars up to date. An update may add sessions; it loses none, unless it is told to.

A dividend or a split changes every price before it, and a source may correct any. So the first and the last stored
sessions are asked for, with what came after them: the last show a recent change, the first every event since. Where
they differ from what is stored, all of them are fetched again; so they are every `REREAD_DAYS`, since a correction in
the middle shows in neither. One series never holds bars of two sources.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import pandas as pd

from forecaster.data.bars import FIRST_TRADE_DAYS, Bars
from forecaster.data.calendars import CalendarChoice, calendar_for
from forecaster.data.differences import (
    check_no_session_lost,
    check_returns,
    check_scale,
    describe_change,
    is_history_rewritten,
)
from forecaster.data.jumps import find_hold, find_jumps
from forecaster.data.quality import check, check_rows
from forecaster.data.store import BarStore
from forecaster.domain.errors import NoData, QualityError

OVERLAP_SESSIONS = 10
REREAD_DAYS = 30
_Ask = Callable[[np.datetime64, np.datetime64], Bars]


class Source(Protocol):
    """Where bars come from."""

    @property
    def name(self) -> str:
        """Return what is recorded with each series."""

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included, or raise a MarketDataError."""


@dataclass(frozen=True)
class Updated:
    """What an update did: bars now stored, how many of them are new, why the past changed, what was flagged or held."""

    symbol: str
    bars: int
    new: int
    refetched: str | None
    issues: tuple[str, ...]
    held: str | None = None


def update(
    store: BarStore,
    source: Source,
    symbol: str,
    first: np.datetime64,
    last: np.datetime64,
    now: datetime,
    calendar: CalendarChoice = None,
    *,
    full: bool = False,
    may_lose: bool = False,
    confirm: Sequence[str] = (),
) -> Updated:
    """Store a symbol's completed sessions from `first` to `last`; where anything fails the store stays as it was.

    Args:
        store: where to.
        source: where from.
        symbol: as the source spells it.
        first: the first date wanted.
        last: the last date wanted; sessions that have not ended and settled by `now` are withheld.
        now: with a zone.
        calendar: the exchange's market identifier code, or each symbol's, where the source's name for it is not known.
        full: whether all is read again, whatever the ends of it show.
        may_lose: whether stored sessions that the source no longer has may go.
        confirm: the sessions whose jumps are right, ISO 8601.

    Raises:
        MarketDataError: the bars cannot be had, lack stored sessions, or break a hard rule.
        DataError: the store cannot be read or written.
    """
    with store.lock(symbol):
        old = store.read(symbol)
        if old is not None:
            _refuse_another(old, source)
            _mend(store, old, calendar)
        fresh, why = _fetch(source, symbol, first, last, old, now, full=full or may_lose or bool(confirm))
        if old is not None and not may_lose:
            _refuse_another_identity(old, fresh)
        days = calendar_for(symbol, fresh.origin.exchange, calendar)
        # a clock that was set back hides no stored session
        settled = days.last_completed(now) if old is None else max(days.last_completed(now), old.sessions[-1])
        fresh = fresh.until(settled)
        if old is not None and not may_lose:
            check_no_session_lost(old, fresh)
        if len(fresh) == 0:
            raise NoData(symbol, f"no session from {first} to {last} has ended yet; ask later")
        fresh = _confirmed(old, fresh, confirm)
        bars = _believed(old, fresh)
        if bars.held:
            # a confirmation cannot put right what lies behind the jump
            check_rows(fresh).refuse()
        report = check(bars, days.sessions(bars.sessions[0], bars.sessions[-1]))
        if old is None or bars.frame is not old.frame:
            report.refuse()
        if old is not None and bars.frame is not old.frame and not may_lose:
            # also where a hold keeps the last bars back: those before it take the stored ones' place
            check_scale(old, bars, confirm)
            check_returns(old, bars)
        if old is None or _differ(old, bars):
            is_replaced = old is not None and is_history_rewritten(old, bars)
            store.write(bars, days.due_after(bars.sessions[-1]), report, keep_previous=is_replaced)
    known = set() if old is None else set(old.sessions.tolist())
    new = sum(day not in known for day in bars.sessions.tolist())
    held = bars.held.message_for(symbol) if bars.held else None
    return Updated(symbol, len(bars), new, why, tuple(str(issue) for issue in report.issues), held)


def _refuse_another(old: Bars, source: Source) -> None:
    if old.origin.source != source.name:
        raise QualityError(
            old.symbol, f"is stored from {old.origin.source}: two sources are not mixed; remove it, or ask that source"
        )


def _mend(store: BarStore, old: Bars, calendar: CalendarChoice) -> None:
    """Write tail and report anew where a process was killed before it could."""
    if not store.is_whole(old.symbol):
        days = calendar_for(old.symbol, old.origin.exchange, calendar)
        report = check(old, days.sessions(old.sessions[0], old.sessions[-1]))
        store.write(old, days.due_after(old.sessions[-1]), report)


def _refuse_another_identity(old: Bars, fresh: Bars) -> None:
    """Raise QualityError where fetched bars are not of the company, exchange and currency that are stored."""
    for what in ("currency", "exchange", "zone"):
        before, now = getattr(old.origin, what), getattr(fresh.origin, what)
        if before != now:
            raise QualityError(
                old.symbol, f"its {what} is stored as {before}, and is now {now}; if that is right, run with --replace"
            )
    began = fresh.origin.first_trade
    if began and old.sessions[0] < np.datetime64(began) - FIRST_TRADE_DAYS:
        raise QualityError(
            old.symbol,
            f"is stored from {old.sessions[0]}, but {fresh.origin.source} now says that trading began on {began}, so "
            "it may be another company; if that is right, run with --replace",
        )


def _fetch(
    source: Source,
    symbol: str,
    first: np.datetime64,
    last: np.datetime64,
    old: Bars | None,
    now: datetime,
    *,
    full: bool,
) -> tuple[Bars, str | None]:
    """Return all bars, from the store and the source or from the source alone, and why the past was read again."""

    def ask(begin: np.datetime64, end: np.datetime64) -> Bars:
        bars = source.fetch(symbol, begin, end, old.origin.exchange if old else None)
        return bars.since(begin).until(end)

    if old is None:
        return _whole(ask(first, last), first, now), None
    asked_from = np.datetime64(old.origin.asked_from, "D")
    begin, until = min(first, asked_from, old.sessions[0]), max(last, old.sessions[-1])
    why = f"the store began at {asked_from}" if first < asked_from else _reread(old, now)
    if why is None and not full:
        fresh, why = _ends(ask, old, until)
        if why is None:
            return fresh, None
    fresh = _whole(ask(begin, until), begin, now)
    return fresh, describe_change(old, fresh) or why


def _whole(fresh: Bars, asked_from: np.datetime64, now: datetime) -> Bars:
    full_at = now.astimezone(UTC).isoformat(timespec="seconds")
    return replace(fresh, origin=replace(fresh.origin, asked_from=str(asked_from), full_at=full_at))


def _reread(old: Bars, now: datetime) -> str | None:
    """Return why all must be read again whatever the ends show, or None."""
    if old.held:
        return "it was held back"
    if _is_due(old, now):
        return f"all of it was last read at {old.origin.full_at or 'a time that is not known'}"
    return None


def _is_due(old: Bars, now: datetime) -> bool:
    # an unknown time is that of an earlier release; one to come, of a clock that was wrong
    full_at = old.origin.full_at
    return not full_at or abs(now - datetime.fromisoformat(full_at)) >= timedelta(days=REREAD_DAYS)


def _ends(ask: _Ask, old: Bars, until: np.datetime64) -> tuple[Bars, str | None]:
    """Return the stored bars with the new ones after them, and what has changed at either end of the stored ones."""
    head, overlap = old.sessions[:OVERLAP_SESSIONS], old.sessions[-OVERLAP_SESSIONS:]
    fresh = ask(overlap[0], until)
    why = describe_change(old.since(overlap[0]), fresh)
    if why is None and len(old) > OVERLAP_SESSIONS:
        # their adjustment is the product of all events since
        why = describe_change(old.until(head[-1]), ask(head[0], head[-1]))
    # the overlap is the fresh one's, volumes too
    frame = pd.concat([old.before(overlap[0]).frame, fresh.frame])
    origin = replace(fresh.origin, asked_from=old.origin.asked_from, full_at=old.origin.full_at)
    return replace(fresh, frame=frame, origin=origin), why


def _confirmed(old: Bars | None, fresh: Bars, days: Sequence[str]) -> Bars:
    """Return the fresh bars with what was confirmed before, and now.

    Raises:
        QualityError: there is no jump on one of `days`.
    """
    moves = {jump.day: jump.move for jump in find_jumps(fresh)} if days else {}
    without = [day for day in days if day not in moves]
    if without:
        raise QualityError(
            fresh.symbol, f"there is no jump on {', '.join(without)} to confirm; there are {', '.join(moves) or 'none'}"
        )
    known = {} if old is None else dict(old.confirmed)
    return replace(fresh, confirmed=known | {day: moves[day] for day in days})


def _believed(old: Bars | None, fresh: Bars) -> Bars:
    """Return the fresh bars up to the first jump that nobody has confirmed; the stored ones where it lies in those."""
    hold = find_hold(fresh)
    if hold is None:
        return fresh
    first = np.datetime64(hold.days[0])
    if old is not None and old.sessions[-1] >= first:
        return replace(old, confirmed=fresh.confirmed, held=hold)
    return replace(fresh.before(first), held=hold)


def _differ(old: Bars, bars: Bars) -> bool:
    """Say whether there is anything to write."""
    if not bars.frame.equals(old.frame) or (bars.held, bars.confirmed) != (old.held, old.confirmed):
        return True
    # when it was read is worth a file only where it decides when all must be read again
    is_read_anew = bars.origin.full_at != old.origin.full_at
    if is_read_anew and _is_due(old, datetime.fromisoformat(bars.origin.full_at)):
        return True
    return replace(bars.origin, fetched_at=old.origin.fetched_at, full_at=old.origin.full_at) != old.origin
