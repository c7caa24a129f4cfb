"""Exchange calendars: which days are sessions, which sessions have ended, and which come next.

Source of the holidays: exchange_calendars, which has them about a year ahead.
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

# calendars start here
FIRST = "1962-01-02"
# a bar is complete this long after the close, when prices have settled
SETTLING_MINUTES = 30
ALWAYS, WEEKDAYS = "24/7", "24/5"
# market identifier codes by exchange names of Yahoo's chart metadata
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

# a configured calendar: for all symbols, or by symbol
CalendarChoice = str | Mapping[str, str] | None
# calendar names that `freq` accepts
NAMES = frozenset(YAHOO_EXCHANGES.values())


@dataclass(frozen=True)
class Calendar:
    """An exchange's sessions, as dates `datetime64[D]`."""

    name: str
    zone: str
    _days: Times
    _schedule: Any

    @property
    def last(self) -> np.datetime64:
        """Return the last day of the calendar."""
        return np.datetime64(self._days[-1], "D")

    def sessions(self, first: np.datetime64, last: np.datetime64) -> Times:
        """Return the sessions from `first` to `last`, inclusive, `(n,)`.

        Raises:
            CalendarError: the range lies outside the calendar.
        """
        self._check_reach(first, last)
        begin, end = np.searchsorted(self._days, [first.astype("M8[D]"), last.astype("M8[D]") + np.timedelta64(1, "D")])
        return self._days[begin:end]

    def after(self, last: np.datetime64, steps: int) -> Times:
        """Return the next `steps` sessions after `last`, `(steps,)`.

        Raises:
            CalendarError: the calendar ends earlier.
        """
        begin = int(np.searchsorted(self._days, last.astype("M8[D]"), side="right"))
        if begin + steps > len(self._days):
            raise CalendarError(
                f"calendar {self.name} ends on {self.last}, less than {steps} sessions after {last.astype('M8[D]')}; "
                "request fewer steps, or update exchange_calendars"
            )
        return self._days[begin : begin + steps]

    def last_completed(self, now: datetime) -> np.datetime64:
        """Return the latest session that closed at least `SETTLING_MINUTES` before `now`, which has a time zone."""
        import pandas as pd

        closes: pd.Series[pd.Timestamp] = self._schedule["close"]
        settled = pd.Timestamp(now).tz_convert("UTC") - pd.Timedelta(minutes=SETTLING_MINUTES)
        position = int(closes.searchsorted(settled, side="right")) - 1
        return np.datetime64(self._days[position], "D")

    def due_after(self, last: np.datetime64) -> datetime:
        """Return when the session after `last` is complete, in UTC.

        Raises:
            CalendarError: the calendar ends earlier.
        """
        import pandas as pd

        position = int(np.searchsorted(self._days, self.after(last, 1)[0]))
        closes: pd.Series[pd.Timestamp] = self._schedule["close"]
        due: datetime = (closes.iloc[position] + pd.Timedelta(minutes=SETTLING_MINUTES)).to_pydatetime()
        return due

    def as_frequency(self) -> Sessions:
        """Return the sessions as a manifest stores them."""
        days = np.arange(self._days[0], self.last + 1)
        # day 0 of the epoch was a Thursday
        weekdays = (days.astype(np.int64) + 3) % 7
        open_on = np.isin(np.arange(7), weekdays[np.isin(days, self._days)])
        holidays = days[~np.isin(days, self._days) & open_on[weekdays]]
        mask = "".join("1" if is_open else "0" for is_open in open_on)
        closed = tuple(np.datetime_as_string(holidays).tolist())
        return Sessions(name=self.name, first=str(days[0]), last=str(days[-1]), weekmask=mask, closed=closed)

    def _check_reach(self, first: np.datetime64, last: np.datetime64) -> None:
        if first < self._days[0] - np.timedelta64(14, "D") or last > self.last + np.timedelta64(14, "D"):
            raise CalendarError(
                f"calendar {self.name} covers {self._days[0]} to {self.last}, but {first} to {last} was requested; "
                "request days within the calendar, or update exchange_calendars"
            )


@cache
def get_calendar(name: str) -> Calendar:
    """Return the calendar of a market identifier code, `24/7` or `24/5`.

    Raises:
        CalendarError: the name is unknown.
    """
    import exchange_calendars
    import pandas as pd

    earliest, _ = _bounds(name)
    first = pd.Timestamp(FIRST) if earliest is None else max(pd.Timestamp(FIRST), earliest)
    found = exchange_calendars.get_calendar(name, start=first)
    return Calendar(name, str(found.tz), found.schedule.index.to_numpy().astype("M8[D]"), found.schedule)


def _bounds(name: str) -> tuple[Any, Any]:
    """Return the library's first and last day of a calendar, each None if it is unlimited."""
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        found = exchange_calendars.get_calendar(name)
    except InvalidCalendarName as error:
        known = ", ".join(sorted(set(YAHOO_EXCHANGES.values())))
        raise CalendarError(f"there is no calendar '{name}'; choose from {known}") from error
    return found.bound_min(), found.bound_max()


def calendar_of(exchange: str) -> Calendar:
    """Return the calendar of an exchange, given by Yahoo's name or its market identifier code.

    Raises:
        CalendarError: the exchange is not in `YAHOO_EXCHANGES`.
    """
    if exchange in NAMES:
        return get_calendar(exchange)
    if exchange not in YAHOO_EXCHANGES:
        raise CalendarError(f"exchange '{exchange}' has no known calendar; set calendar in the configuration")
    return get_calendar(YAHOO_EXCHANGES[exchange])


def calendar_for(symbol: str, exchange: str, chosen: CalendarChoice) -> Calendar:
    """Return a symbol's configured calendar or, without one, its exchange's calendar.

    Args:
        symbol: as the source spells it.
        exchange: the source's name of the exchange.
        chosen: the market identifier code for all symbols, or by symbol.

    Raises:
        CalendarError: the configured calendar is unknown, or none is configured and the exchange is unknown.
    """
    name = chosen if isinstance(chosen, str | None) else chosen.get(symbol)
    if name is None and exchange not in NAMES | YAHOO_EXCHANGES.keys():
        raise CalendarError(
            f"{symbol}: exchange '{exchange}' has no known calendar; set calendar: {{{symbol}: …}} in the "
            "configuration to its market identifier code"
        )
    try:
        return get_calendar(name) if name else calendar_of(exchange)
    except CalendarError as error:
        raise CalendarError(f"{symbol}: {error}") from error


def session_edges(name: str, edge: Literal["open", "close"], near: datetime) -> Times:
    """Return the opens or closes of sessions within a year of `near`, in UTC, `datetime64[us]`.

    The library's calendars end a year after the start of the process. This range moves with `near`, so a process can
    run for years.

    Raises:
        CalendarError: the calendar is unknown.
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
