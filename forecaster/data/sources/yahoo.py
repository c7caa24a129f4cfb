"""Daily bars from Yahoo through yfinance, with errors instead of empty results.

yfinance swallows errors, caches bad responses and returns empty frames for many reasons. This module returns bars or
raises a `MarketDataError`. It accepts an empty response only if the exchange had no session.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, COLUMNS, DIVIDEND, FIRST_TRADE_DAYS, SESSION, SPLIT, Bars, Origin
from forecaster.data.session import ResponseTooLarge, RetryAfterTooLong, SessionConfig
from forecaster.data.sources.chart import Chart
from forecaster.data.sources.request import (
    check_symbol,
    drop_blank_rows,
    fetch_with_retries,
    no_bars_error,
    rate_limit_error,
)
from forecaster.data.sources.responses import InvalidResponse
from forecaster.data.sources.yahoo_session import YahooSession
from forecaster.domain.errors import BadResponse, DataError, RateLimited, SourceUnavailable, UnknownSymbol

_YAHOOS_NAMES = {
    "Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": ADJUSTED_CLOSE,
    "Volume": "volume", "Dividends": DIVIDEND, "Stock Splits": SPLIT,
}  # fmt: skip
_CAPITAL_GAINS = "Capital Gains"
# yfinance has one session, one cookie and one cache per process
_LOCK = threading.Lock()
_SESSIONS: dict[SessionConfig, YahooSession] = {}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class YahooSource:
    """A source of bars from Yahoo's chart endpoint, through yfinance.

    Args:
        session: the HTTP settings.
        cache: a folder for yfinance's cache of time zones and cookies.
        tries: maximum number of requests for a symbol.
        backoff_seconds: the longest wait before the first retry; it doubles with each retry.
        known_missing: by symbol, sessions declared as missing at Yahoo.
    """

    session: SessionConfig = field(default_factory=SessionConfig)
    cache: Path = Path("mlruns/yfinance")
    tries: int = 3
    backoff_seconds: float = 1.0
    known_missing: Mapping[str, tuple[date, ...]] = field(default_factory=dict)
    name: str = "yahoo"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, inclusive; dividends include a fund's capital gains.

        Args:
            symbol: as Yahoo spells it.
            first: the first date.
            last: the last date.
            exchange: Yahoo's name of the exchange, if known from an earlier response.

        Raises:
            UnknownSymbol, NoData, RateLimited, SourceUnavailable, BadResponse: see `forecaster.domain.errors`.
            DataError: the cache folder cannot be written.
        """
        check_symbol(symbol)
        session = self._session()
        return fetch_with_retries(
            session,
            lambda: self._fetch_once(session, symbol, first, last, exchange),
            self.tries,
            self.backoff_seconds,
        )

    def _session(self) -> YahooSession:
        """Return the process's session for these settings, which keeps the cookie."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            if self.session not in _SESSIONS:
                # yfinance unpickles this file, so never load one from another process
                for path in self.cache.glob("cookies.db*"):
                    path.unlink(missing_ok=True)
                _SESSIONS[self.session] = YahooSession(self.session)
        except OSError as error:
            raise DataError(f"{self.cache}: cannot be written ({error}); set store to another folder") from error
        return _SESSIONS[self.session]

    def _fetch_once(
        self, session: YahooSession, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None
    ) -> Bars:
        with _LOCK, self._yfinance_errors(symbol), _response_errors(symbol, session):
            session.forget()
            frame = self._ask(session, symbol, first, last)
            chart, refusal = session.chart, session.refusal
        if chart is None or frame is None or frame.empty:
            known = chart.meta.exchangeName if chart else None
            raise no_bars_error(symbol, "Yahoo", known or exchange, first, last, refusal)
        if _CAPITAL_GAINS in frame:
            frame["Dividends"] += frame[_CAPITAL_GAINS]
        frame = frame.rename(columns=_YAHOOS_NAMES)[list(COLUMNS)].astype(np.float64)
        frame.index = pd.DatetimeIndex(frame.index).tz_localize(None).normalize().rename(SESSION)
        declared = self.known_missing.get(symbol, ())
        bars = Bars(symbol, drop_blank_rows(frame, declared), self._origin(symbol, chart, declared)).until(last)
        if len(bars) == 0:
            raise no_bars_error(symbol, "Yahoo", bars.origin.exchange, first, last)
        _check_consistency(bars, chart)
        return bars

    def _origin(self, symbol: str, chart: Chart, declared: tuple[date, ...]) -> Origin:
        meta = chart.meta
        zone = str(meta.exchangeTimezoneName)
        began = meta.firstTradeDate
        return Origin(
            self.name,
            str(meta.currency),
            str(meta.exchangeName),
            zone,
            datetime.now(UTC).isoformat(timespec="seconds"),
            first_trade="" if began is None else str(pd.Timestamp(began, unit="s", tz=ZoneInfo(zone)).date()),
            known_missing=tuple(str(day) for day in declared),
        )

    def _ask(
        self, session: YahooSession, symbol: str, first: np.datetime64, last: np.datetime64
    ) -> pd.DataFrame | None:
        """Return yfinance's frame, or None if it reports no prices."""
        import yfinance
        from yfinance.data import YfData

        logging.getLogger("yfinance").setLevel(logging.CRITICAL)
        yfinance.set_tz_cache_location(str(self.cache))
        yfinance.config.debug.hide_exceptions = False
        ticker = yfinance.Ticker(symbol, session=session)
        # the cache may have bad responses, and prices adjusted before a dividend
        YfData().cache_get.cache_clear()
        try:
            frame: pd.DataFrame = ticker.history(
                start=str(first),
                end=str(last + np.timedelta64(1, "D")),
                auto_adjust=False,
                actions=True,
                keepna=True,
                timeout=self.session.timeout_seconds,
            )
        except yfinance.exceptions.YFPricesMissingError as error:
            if "symbol may be delisted" in str(getattr(error, "yahoo_reason", "")):
                raise
            return None
        return frame

    @contextmanager
    def _yfinance_errors(self, symbol: str) -> Iterator[None]:
        """Convert yfinance's internal errors and discard its cache, their usual cause, since charts are validated."""
        from peewee import PeeweeException

        try:
            yield
        except PeeweeException as error:
            self._discard_cache()
            raise SourceUnavailable(
                symbol, f"yfinance's cache in {self.cache} was unusable ({error}) and is now removed; try again"
            ) from error
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, EOFError) as error:
            _LOG.exception("%s: yfinance failed", symbol)
            self._discard_cache()
            raise BadResponse(
                symbol, "yfinance cannot read Yahoo's response; see the traceback in the log, and try later"
            ) from error

    def _discard_cache(self) -> None:
        """Remove yfinance's cache and let yfinance create a new one."""
        from yfinance import cache

        for path in self.cache.glob("*.db*"):
            path.unlink(missing_ok=True)
        cache._TzCacheManager._tz_cache = None
        cache._CookieCacheManager._Cookie_cache = None


@contextmanager
def _response_errors(symbol: str, session: YahooSession) -> Iterator[None]:
    """Convert errors of the transport, and yfinance's errors about a response."""
    from curl_cffi.requests.exceptions import HTTPError
    from yfinance import exceptions

    try:
        yield
    except RetryAfterTooLong as error:
        raise rate_limit_error(symbol, "Yahoo", error) from error
    except exceptions.YFRateLimitError as error:
        raise RateLimited(symbol, "Yahoo limits the request rate (status 429); run again in some minutes") from error
    except exceptions.YFTickerMissingError as error:
        if session.refusal and not session.refusal.startswith("status 404"):
            raise SourceUnavailable(symbol, f"Yahoo refuses the request ({session.refusal}); try later") from error
        raise UnknownSymbol(
            symbol, "Yahoo does not know this symbol; check its spelling, or whether it was delisted"
        ) from error
    except exceptions.YFException as error:
        raise SourceUnavailable(symbol, f"Yahoo does not respond ({error}); try later") from error
    except (ResponseTooLarge, InvalidResponse) as error:
        raise BadResponse(symbol, f"Yahoo's response is invalid: {error}; try later") from error
    except HTTPError as error:
        if getattr(error.response, "status_code", None) == 404:
            raise UnknownSymbol(symbol, "Yahoo does not know this symbol (status 404); check its spelling") from error
        raise SourceUnavailable(symbol, f"Yahoo refuses the request ({session.refusal or error}); try later") from error
    except OSError as error:
        raise SourceUnavailable(
            symbol, f"Yahoo cannot be reached ({error}); check the network, or try later"
        ) from error


def _check_consistency(bars: Bars, chart: Chart) -> None:
    """Raise BadResponse if a response is for another symbol, not daily, or has bars before the first trade."""
    meta, first_trade = chart.meta, bars.origin.first_trade
    if str(meta.symbol).casefold() != bars.symbol.casefold():
        raise BadResponse(bars.symbol, f"Yahoo's response is for {meta.symbol}; check the spelling, or try later")
    if meta.dataGranularity != "1d":
        raise BadResponse(bars.symbol, f"Yahoo's response has bars of {meta.dataGranularity}, not of 1d; try later")
    if first_trade and bars.sessions[0] < np.datetime64(first_trade) - FIRST_TRADE_DAYS:
        raise BadResponse(
            bars.symbol,
            f"Yahoo's first bar is of {bars.sessions[0]}, but its first trade date is {first_trade}; try later",
        )
