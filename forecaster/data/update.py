"""Update a symbol's stored bars without losing sessions.

A dividend or a split changes every earlier price, and a source may correct any price. An update therefore fetches the
first and the last stored sessions again, besides the new sessions. The last stored sessions reveal recent corrections;
the first reveal every event since. If either differs from the store, all sessions are fetched. Corrections in the
middle show in neither, so all sessions are also fetched every `REREAD_DAYS` days.

A symbol's bars never come from two sources.
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
_Fetch = Callable[[np.datetime64, np.datetime64], Bars]


class Source(Protocol):
    """A source of bars."""

    @property
    def name(self) -> str:
        """Return the name that is stored with the bars."""

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, inclusive, or raise a MarketDataError."""


@dataclass(frozen=True)
class Updated:
    """The result of an update.

    Args:
        symbol: as the source spells it.
        bars: number of stored bars.
        new: number of new bars.
        refetched: why all bars were fetched again; None if they were not.
        issues: the broken soft rules.
        held: the message of the hold; None if there is none.
    """

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
    allow_loss: bool = False,
    confirm: Sequence[str] = (),
) -> Updated:
    """Store a symbol's completed sessions from `first` to `last`; an error leaves the store unchanged.

    Args:
        store: the bar store.
        source: the source of the bars.
        symbol: as the source spells it.
        first: the first requested date.
        last: the last requested date; sessions that are not complete at `now` are left out.
        now: the current time, with a time zone.
        calendar: the exchange's market identifier code, for all symbols or by symbol; needed if the source's name of
            the exchange is unknown.
        full: whether to fetch all sessions again.
        allow_loss: whether stored sessions that the source no longer has are dropped.
        confirm: the sessions whose jumps are confirmed, ISO 8601.

    Raises:
        MarketDataError: the bars are unavailable, lack stored sessions, or break a hard rule.
        DataError: the store cannot be read or written.
    """
    with store.lock(symbol):
        old = store.read(symbol)
        if old is not None:
            _check_source(old, source)
            _repair(store, old, calendar)
        fresh, why = _fetch(source, symbol, first, last, old, now, full=full or allow_loss or bool(confirm))
        if old is not None and not allow_loss:
            _check_identity(old, fresh)
        days = calendar_for(symbol, fresh.origin.exchange, calendar)
        # stored sessions stay complete even if the clock was set back
        settled = days.last_completed(now) if old is None else max(days.last_completed(now), old.sessions[-1])
        fresh = fresh.until(settled)
        if old is not None and not allow_loss:
            check_no_session_lost(old, fresh)
        if len(fresh) == 0:
            raise NoData(symbol, f"no session from {first} to {last} is complete yet; try later")
        fresh = _with_confirmed(old, fresh, confirm)
        bars = _before_hold(old, fresh)
        if bars.held:
            # confirming the jump would not repair bad rows after it
            check_rows(fresh).raise_for_hard_issues()
        report = check(bars, days.sessions(bars.sessions[0], bars.sessions[-1]))
        if old is None or bars.frame is not old.frame:
            report.raise_for_hard_issues()
        if old is not None and bars.frame is not old.frame and not allow_loss:
            # also with a hold, because the bars before the jump replace stored bars
            check_scale(old, bars, confirm)
            check_returns(old, bars)
        if old is None or _needs_write(old, bars):
            is_replaced = old is not None and is_history_rewritten(old, bars)
            store.write(bars, days.due_after(bars.sessions[-1]), report, keep_previous=is_replaced)
    known = set() if old is None else set(old.sessions.tolist())
    new = sum(day not in known for day in bars.sessions.tolist())
    held = bars.held.message_for(symbol) if bars.held else None
    return Updated(symbol, len(bars), new, why, tuple(str(issue) for issue in report.issues), held)


def _check_source(old: Bars, source: Source) -> None:
    if old.origin.source != source.name:
        raise QualityError(
            old.symbol,
            f"is stored from source {old.origin.source}, and sources cannot be mixed; use that source, or remove the "
            "symbol from the store",
        )


def _repair(store: BarStore, old: Bars, calendar: CalendarChoice) -> None:
    """Write the tail and the report again if a process was killed before it wrote them."""
    if not store.is_whole(old.symbol):
        days = calendar_for(old.symbol, old.origin.exchange, calendar)
        report = check(old, days.sessions(old.sessions[0], old.sessions[-1]))
        store.write(old, days.due_after(old.sessions[-1]), report)


def _check_identity(old: Bars, fresh: Bars) -> None:
    """Raise QualityError if currency, exchange, zone or first trade date show that this is another security."""
    for what in ("currency", "exchange", "zone"):
        before, now = getattr(old.origin, what), getattr(fresh.origin, what)
        if before != now:
            raise QualityError(
                old.symbol, f"its {what} was {before} and is now {now}; run with --replace if that is right"
            )
    first_trade = fresh.origin.first_trade
    if first_trade and old.sessions[0] < np.datetime64(first_trade) - FIRST_TRADE_DAYS:
        raise QualityError(
            old.symbol,
            f"is stored from {old.sessions[0]}, but the first trade date of {fresh.origin.source} is now "
            f"{first_trade}, so it may be another company; run with --replace if that is right",
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
    """Return all bars, and why stored bars were fetched again (None if they were not)."""

    def fetch(begin: np.datetime64, end: np.datetime64) -> Bars:
        bars = source.fetch(symbol, begin, end, old.origin.exchange if old else None)
        return bars.since(begin).until(end)

    if old is None:
        return _mark_full(fetch(first, last), first, now), None
    asked_from = np.datetime64(old.origin.asked_from, "D")
    begin, until = min(first, asked_from, old.sessions[0]), max(last, old.sessions[-1])
    why = f"the store began at {asked_from}" if first < asked_from else _why_full(old, now)
    if why is None and not full:
        fresh, why = _fetch_ends(fetch, old, until)
        if why is None:
            return fresh, None
    fresh = _mark_full(fetch(begin, until), begin, now)
    return fresh, describe_change(old, fresh) or why


def _mark_full(fresh: Bars, asked_from: np.datetime64, now: datetime) -> Bars:
    full_at = now.astimezone(UTC).isoformat(timespec="seconds")
    return replace(fresh, origin=replace(fresh.origin, asked_from=str(asked_from), full_at=full_at))


def _why_full(old: Bars, now: datetime) -> str | None:
    """Return the reason for a full fetch before the ends are compared; None if there is none."""
    if old.held:
        return "it was held back"
    if _is_full_due(old, now):
        return f"the last full fetch was at {old.origin.full_at or 'an unknown time'}"
    return None


def _is_full_due(old: Bars, now: datetime) -> bool:
    # earlier releases did not store the time, and a time in the future shows that the clock was wrong
    full_at = old.origin.full_at
    return not full_at or abs(now - datetime.fromisoformat(full_at)) >= timedelta(days=REREAD_DAYS)


def _fetch_ends(fetch: _Fetch, old: Bars, until: np.datetime64) -> tuple[Bars, str | None]:
    """Return the stored bars with new bars appended, and a change at either end of the stored bars (None if none)."""
    head, overlap = old.sessions[:OVERLAP_SESSIONS], old.sessions[-OVERLAP_SESSIONS:]
    fresh = fetch(overlap[0], until)
    why = describe_change(old.since(overlap[0]), fresh)
    if why is None and len(old) > OVERLAP_SESSIONS:
        # the adjustment of the first sessions is the product of all later events
        why = describe_change(old.until(head[-1]), fetch(head[0], head[-1]))
    # the fresh overlap replaces the stored overlap, which updates its volumes
    frame = pd.concat([old.before(overlap[0]).frame, fresh.frame])
    origin = replace(fresh.origin, asked_from=old.origin.asked_from, full_at=old.origin.full_at)
    return replace(fresh, frame=frame, origin=origin), why


def _with_confirmed(old: Bars | None, fresh: Bars, days: Sequence[str]) -> Bars:
    """Return the fresh bars with the earlier and the new confirmations.

    Raises:
        QualityError: one of `days` has no jump.
    """
    moves = {jump.day: jump.move for jump in find_jumps(fresh)} if days else {}
    without = [day for day in days if day not in moves]
    if without:
        raise QualityError(
            fresh.symbol,
            f"there is no jump on {', '.join(without)} to confirm; the jumps are on {', '.join(moves) or 'no day'}",
        )
    known = {} if old is None else dict(old.confirmed)
    return replace(fresh, confirmed=known | {day: moves[day] for day in days})


def _before_hold(old: Bars | None, fresh: Bars) -> Bars:
    """Return the fresh bars before the first unconfirmed jump, or the stored bars if they include its day."""
    hold = find_hold(fresh)
    if hold is None:
        return fresh
    first = np.datetime64(hold.days[0])
    if old is not None and old.sessions[-1] >= first:
        return replace(old, confirmed=fresh.confirmed, held=hold)
    return replace(fresh.before(first), held=hold)


def _needs_write(old: Bars, bars: Bars) -> bool:
    if not bars.frame.equals(old.frame) or (bars.held, bars.confirmed) != (old.held, old.confirmed):
        return True
    # write a new `full_at` only if a full fetch was due, so that other full fetches without changes write nothing
    is_full = bars.origin.full_at != old.origin.full_at
    if is_full and _is_full_due(old, datetime.fromisoformat(bars.origin.full_at)):
        return True
    return replace(bars.origin, fetched_at=old.origin.fetched_at, full_at=old.origin.full_at) != old.origin
