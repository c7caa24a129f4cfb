"""Daily bars from Yahoo through yfinance, with its silences made into errors.

yfinance swallows errors, remembers bad answers and returns empty frames for many reasons. Here every outcome is bars or
one of the market data errors, and an empty answer is believed only where the exchange had no session.
"""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, COLUMNS, DIVIDEND, SESSION, SPLIT, Bars, Origin
from forecaster.data.session import SessionConfig, YahooSession
from forecaster.data.sources.asking import ask, nothing
from forecaster.domain.errors import (
    BadResponse,
    RateLimited,
    SourceUnavailable,
    UnknownSymbol,
)

_YAHOOS_NAMES = {
    "Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": ADJUSTED_CLOSE,
    "Volume": "volume", "Dividends": DIVIDEND, "Stock Splits": SPLIT,
}  # fmt: skip
# yfinance keeps one session, one cookie and one cache for the whole process
_LOCK = threading.Lock()


@dataclass(frozen=True)
class YahooSource:
    """Yahoo's chart endpoint, asked by yfinance.

    Args:
        session: how it is reached.
        cache: a folder for yfinance's time zones and cookies.
        tries: how often a symbol is asked for where a retry can help.
        backoff_seconds: the longest wait before the first retry; it doubles.
    """

    session: SessionConfig = field(default_factory=SessionConfig)
    cache: Path = Path("mlruns/yfinance")
    tries: int = 3
    backoff_seconds: float = 1.0
    name: str = "yahoo"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included.

        Args:
            symbol: as Yahoo spells it.
            first: a date.
            last: a date.
            exchange: Yahoo's name of the exchange, where an earlier answer has told it.

        Raises:
            UnknownSymbol, NoData, RateLimited, SourceUnavailable, BadResponse: as their names say.
        """
        return ask(lambda: self._fetch_once(symbol, first, last, exchange), self.tries, self.backoff_seconds)

    def _fetch_once(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None) -> Bars:
        with _LOCK, _errors_of(symbol):
            frame, meta = self._ask(symbol, first, last)
        if frame is None or frame.empty:
            raise nothing(symbol, "Yahoo", meta.get("exchangeName") or exchange, first, last)
        missing = {"currency", "exchangeName", "exchangeTimezoneName"} - meta.keys()
        absent = _YAHOOS_NAMES.keys() - set(frame.columns)
        if missing or absent:
            raise BadResponse(symbol, f"the answer lacks {sorted(missing | absent)}; try later")
        origin = Origin(
            self.name,
            str(meta["currency"]),
            str(meta["exchangeName"]),
            str(meta["exchangeTimezoneName"]),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        frame = frame.rename(columns=_YAHOOS_NAMES)[list(COLUMNS)].astype(np.float64)
        frame.index = pd.DatetimeIndex(frame.index).tz_localize(None).normalize().rename(SESSION)
        return Bars(symbol, frame, origin).until(last)

    def _ask(
        self, symbol: str, first: np.datetime64, last: np.datetime64
    ) -> tuple[pd.DataFrame | None, dict[str, Any]]:
        """Return yfinance's frame, None where it says that there are no prices, and what Yahoo says of the symbol."""
        import yfinance
        from yfinance.data import YfData

        logging.getLogger("yfinance").setLevel(logging.CRITICAL)
        self.cache.mkdir(parents=True, exist_ok=True)
        yfinance.set_tz_cache_location(str(self.cache))
        yfinance.config.debug.hide_exceptions = False
        ticker = yfinance.Ticker(symbol, session=_session(self.session))
        # it holds bad bodies, and adjusted prices from before a dividend
        YfData().cache_get.cache_clear()
        try:
            frame = ticker.history(
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
            return None, _described(ticker)
        return frame, _described(ticker)


def _described(ticker: Any) -> dict[str, Any]:
    """Return what the last answer said of the symbol; its other keys would cost a request each."""
    meta = ticker.history_metadata
    return {name: meta[name] for name in ("currency", "exchangeName", "exchangeTimezoneName") if name in meta}


_SESSIONS: dict[SessionConfig, YahooSession] = {}


def _session(config: SessionConfig) -> YahooSession:
    """Return the process' session of this configuration: a new one would lose the cookie."""
    if config not in _SESSIONS:
        _SESSIONS[config] = YahooSession(config)
    return _SESSIONS[config]


@contextmanager
def _errors_of(symbol: str) -> Iterator[None]:
    """Turn whatever yfinance and its transport raise into one of our errors."""
    from curl_cffi.requests.exceptions import HTTPError
    from yfinance import exceptions

    try:
        yield
    except exceptions.YFRateLimitError as error:
        raise RateLimited(symbol, "Yahoo asks for fewer requests; wait some minutes and run again") from error
    except exceptions.YFTickerMissingError as error:
        raise UnknownSymbol(symbol, "Yahoo does not know it; check its spelling, or whether it was delisted") from error
    except exceptions.YFException as error:
        raise SourceUnavailable(symbol, f"Yahoo is not answering ({error}); try later") from error
    except HTTPError as error:
        if getattr(error.response, "status_code", None) == 404:
            raise UnknownSymbol(symbol, "Yahoo does not know it; check its spelling") from error
        raise SourceUnavailable(symbol, f"Yahoo refuses ({error}); try later") from error
    except (json.JSONDecodeError, KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise BadResponse(
            symbol, f"Yahoo's answer cannot be read ({type(error).__name__}: {error}); try later"
        ) from error
    except OSError as error:
        raise SourceUnavailable(symbol, f"Yahoo cannot be reached ({error}); check the network, try later") from error
