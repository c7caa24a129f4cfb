"""Exchanges' calendars: which days are sessions, which have ended, which come next.

Source of the holidays: exchange_calendars, which knows them about a year ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np

from forecaster.domain.errors import CalendarError
from forecaster.domain.series import Times
from forecaster.domain.sessions import Sessions

# the first year for which sessions are wanted
FIRST = "1962-01-02"
# prices settle for a while after the close; a bar is complete then
SETTLING_MINUTES = 30
ALWAYS, WEEKDAYS = "24/7", "24/5"
# Yahoo's names of exchanges, as its chart metadata spells them
YAHOO_EXCHANGES = {
    "NYQ": "XNYS", "NYS": "XNYS", "PCX": "XNYS", "ASE": "XNYS", "BTS": "XNYS", "SNP": "XNYS", "DJI": "XNYS",
    "NMS": "XNAS", "NGM": "XNAS", "NCM": "XNAS", "NAS": "XNAS", "NIM": "XNAS", "WCB": "XNYS", "CXI": "XNYS",
    "CBT": "CBOT", "CME": "CME", "CMX": "COMEX", "NYM": "NYMEX", "TOR": "XTSE", "VAN": "XTSX", "MEX": "XMEX",
    "SAO": "BVMF", "BUE": "XBUE", "SGO": "XSGO", "LSE": "XLON", "IOB": "XLON", "FGI": "XLON", "GER": "XETR",
    "FRA": "XFRA", "DUS": "XDUS", "HAM": "XHAM", "PAR": "XPAR", "AMS": "XAMS", "BRU": "XBRU", "LIS": "XLIS",
    "MIL": "XMIL", "MCE": "XMAD", "EBS": "XSWX", "VIE": "XWBO", "STO": "XSTO", "CPH": "XCSE", "HEL": "XHEL",
    "OSL": "XOSL", "ICE": "XICE", "ISE": "XDUB", "WSE": "XWAR", "PRA": "XPRA", "BUD": "XBUD", "ATH": "ASEX",
    "IST": "XIST", "TLV": "XTAE", "SAU": "XSAU", "JNB": "XJSE", "JPX": "XTKS", "OSA": "XTKS", "HKG": "XHKG",
    "SHH": "XSHG", "SHZ": "XSHG", "KSC": "XKRX", "KOE": "XKRX", "TAI": "XTAI", "TWO": "XTAI", "SES": "XSES",
    "KLS": "XKLS", "JKT": "XIDX", "SET": "XBKK", "BSE": "XBOM", "NSI": "XBOM", "ASX": "XASX", "NZE": "XNZE",
    "CCC": ALWAYS, "CCY": WEEKDAYS,
}  # fmt: skip

# a configuration's word on the calendar: of all symbols, or of each by name
CalendarChoice = str | Mapping[str, str] | None
# what `freq` may be beside a frequency
NAMES = frozenset(YAHOO_EXCHANGES.values())


@dataclass(frozen=True)
class Calendar:
    """One exchange's sessions, as dates `datetime64[D]`."""

    name: str
    zone: str
    _days: Times
    _schedule: Any

    @property
    def last(self) -> np.datetime64:
        """Return the last day that the calendar knows."""
        return np.datetime64(self._days[-1], "D")

    def sessions(self, first: np.datetime64, last: np.datetime64) -> Times:
        """Return the sessions from `first` to `last`, both included, `(n,)`.

        Raises:
            CalendarError: the calendar does not reach that far.
        """
        self._check_reach(first, last)
        begin, end = np.searchsorted(self._days, [first.astype("M8[D]"), last.astype("M8[D]") + np.timedelta64(1, "D")])
        return self._days[begin:end]

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the `steps` sessions after `last`, `(steps,)`.

        Raises:
            CalendarError: the calendar ends before.
        """
        begin = int(np.searchsorted(self._days, last.astype("M8[D]"), side="right"))
        if begin + steps > len(self._days):
            raise CalendarError(
                f"calendar {self.name} ends on {self.last}, before {steps} sessions after {last.astype('M8[D]')}; "
                "ask for fewer, or update exchange_calendars"
            )
        return self._days[begin : begin + steps]

    def last_completed(self, now: datetime) -> np.datetime64:
        """Return the latest session whose close lies at least `SETTLING_MINUTES` before `now`, which has a zone."""
        import pandas as pd

        closes: pd.Series[pd.Timestamp] = self._schedule["close"]
        settled = pd.Timestamp(now).tz_convert("UTC") - pd.Timedelta(minutes=SETTLING_MINUTES)
        position = int(closes.searchsorted(settled, side="right")) - 1
        return np.datetime64(self._days[position], "D")

    def due_after(self, last: np.datetime64) -> datetime:
        """Return when the session after `last` will have ended and settled, in UTC.

        Raises:
            CalendarError: the calendar ends before.
        """
        import pandas as pd

        position = int(np.searchsorted(self._days, self.after(last, 1)[0]))
        closes: pd.Series[pd.Timestamp] = self._schedule["close"]
        due: datetime = (closes.iloc[position] + pd.Timedelta(minutes=SETTLING_MINUTES)).to_pydatetime()
        return due

    def as_frequency(self) -> Sessions:
        """Return the sessions in the form that travels with a model."""
        every = np.arange(self._days[0], self.last + 1)
        weekdays = (every.astype(np.int64) + 3) % 7
        open_on = np.isin(np.arange(7), weekdays[np.isin(every, self._days)])
        closed = every[~np.isin(every, self._days) & open_on[weekdays]]
        mask = "".join("1" if is_open else "0" for is_open in open_on)
        days = tuple(np.datetime_as_string(closed).tolist())
        return Sessions(name=self.name, first=str(every[0]), last=str(every[-1]), weekmask=mask, closed=days)

    def _check_reach(self, first: np.datetime64, last: np.datetime64) -> None:
        if first < self._days[0] - np.timedelta64(14, "D") or last > self.last + np.timedelta64(14, "D"):
            raise CalendarError(
                f"calendar {self.name} knows {self._days[0]} to {self.last}, asked for {first} to {last}; "
                "ask for days within it, or update exchange_calendars"
            )


@cache
def get_calendar(name: str) -> Calendar:
    """Return the calendar of an exchange by its market identifier code, `24/7` or `24/5`.

    Raises:
        CalendarError: there is none of that name.
    """
    import exchange_calendars
    import pandas as pd

    earliest, _ = _bounds(name)
    first = pd.Timestamp(FIRST) if earliest is None else max(pd.Timestamp(FIRST), earliest)
    found = exchange_calendars.get_calendar(name, start=first)
    return Calendar(name, str(found.tz), found.schedule.index.to_numpy().astype("M8[D]"), found.schedule)


def _bounds(name: str) -> tuple[Any, Any]:
    """Return the first and the last day that the library has of an exchange, None where it has no such limit."""
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        found = exchange_calendars.get_calendar(name)
    except InvalidCalendarName as error:
        known = ", ".join(sorted(set(YAHOO_EXCHANGES.values())))
        raise CalendarError(f"there is no calendar '{name}'; there are {known}") from error
    return found.bound_min(), found.bound_max()


def calendar_of(exchange: str) -> Calendar:
    """Return the calendar of an exchange as Yahoo names it, or by its market identifier code.

    Raises:
        CalendarError: the name is not in the table.
    """
    if exchange in NAMES:
        return get_calendar(exchange)
    if exchange not in YAHOO_EXCHANGES:
        raise CalendarError(f"exchange '{exchange}' has no calendar in the table; set calendar in the configuration")
    return get_calendar(YAHOO_EXCHANGES[exchange])


def calendar_for(symbol: str, exchange: str, chosen: CalendarChoice) -> Calendar:
    """Return a symbol's calendar: the chosen one, or that of its exchange.

    Args:
        symbol: as the source spells it.
        exchange: as the source names it.
        chosen: the market identifier code of all symbols' exchange, or of some symbols' by name.

    Raises:
        CalendarError: nothing is chosen and the exchange is not in the table, or there is no such calendar.
    """
    name = chosen if isinstance(chosen, str | None) else chosen.get(symbol)
    if name is None and exchange not in NAMES | YAHOO_EXCHANGES.keys():
        raise CalendarError(
            f"{symbol}: exchange '{exchange}' has no calendar in the table; set calendar: {{{symbol}: …}} in the "
            "configuration, to its market identifier code"
        )
    try:
        return get_calendar(name) if name else calendar_of(exchange)
    except CalendarError as error:
        raise CalendarError(f"{symbol}: {error}") from error


def session_edges(name: str, edge: Literal["open", "close"], near: datetime) -> Times:
    """Return when sessions open, or close, from a year before `near` to a year after, in UTC, `datetime64[us]`.

    The library's own calendars end a year after a process has started; these do not, however long it runs.

    Raises:
        CalendarError: there is no calendar of that name.
    """
    return _edges(name, edge, near.date().replace(day=1))


@lru_cache(maxsize=64)
def _edges(name: str, edge: str, month: date) -> Times:
    import exchange_calendars
    import pandas as pd

    earliest, latest = _bounds(name)
    first = pd.Timestamp(month) - pd.DateOffset(years=1)
    last = pd.Timestamp(month) + pd.DateOffset(months=13)
    found = exchange_calendars.get_calendar(
        name,
        start=first if earliest is None else max(first, earliest),
        end=last if latest is None else min(last, latest),
    )
    times: Times = found.schedule[edge].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("M8[us]")
    return times
