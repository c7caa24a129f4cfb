"""Bars from Tiingo's end-of-day prices, with your API key.

Tiingo returns prices as traded, but bars are adjusted for splits. Requests therefore extend to today, and prices before
a split are divided by its ratio, even if the split is after the last requested date. Tiingo's adjusted closes do the
same.

Source: Tiingo's documentation of its end-of-day endpoint.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, TypeVar
from urllib.parse import quote

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter

from forecaster.data.bars import ADJUSTED_CLOSE, COLUMNS, DIVIDEND, PRICES, SESSION, SPLIT, VOLUME, Bars, Origin
from forecaster.data.session import MarketSession, ResponseTooLarge, RetryAfterTooLong, SessionConfig
from forecaster.data.sources.request import check_symbol, fetch_with_retries, no_bars_error, rate_limit_error
from forecaster.data.sources.responses import Amount, Column, InvalidResponse, ResponseModel, parse_response
from forecaster.domain.errors import BadResponse, ConfigError, RateLimited, SourceUnavailable, UnknownSymbol

KEY = "TIINGO_API_KEY"
_HOST = "https://api.tiingo.com"
_NAMES = {
    "open": "open", "high": "high", "low": "low", "close": "close", "volume": VOLUME, "adjClose": ADJUSTED_CLOSE,
    "divCash": DIVIDEND, "splitFactor": SPLIT,
}  # fmt: skip
_Price = Annotated[float, Field(ge=-1e15, le=1e15)]
# Yahoo's exchange names by Tiingo's
_EXCHANGES = {
    "NYSE": "NYQ", "NYSE ARCA": "PCX", "NYSE MKT": "ASE", "NYSE AMERICAN": "ASE", "AMEX": "ASE", "BATS": "BTS",
    "NASDAQ": "NMS",
}  # fmt: skip
# Tiingo's messages for exceeded quotas, sometimes with a success status
_QUOTA_MESSAGES = ("run over your", "request allocation")
ResponseT = TypeVar("ResponseT")


class _About(ResponseModel):
    """Tiingo's description of a symbol."""

    ticker: str
    exchangeCode: str | None = None  # noqa: N815
    startDate: str | None = None  # noqa: N815


class _Day(ResponseModel):
    """A day's prices as traded."""

    date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T|$)")]
    open: _Price
    high: _Price
    low: _Price
    close: _Price
    volume: Amount
    adjClose: _Price  # noqa: N815
    divCash: Amount  # noqa: N815
    splitFactor: Annotated[float, Field(gt=0, le=1e6)]  # noqa: N815


_ABOUT_TYPE = TypeAdapter(_About)
_DAYS: TypeAdapter[tuple[_Day, ...]] = TypeAdapter(Column[_Day])


@dataclass(frozen=True)
class TiingoSource:
    """A source of bars from Tiingo's end-of-day endpoint.

    Args:
        session: the HTTP settings.
        tries: maximum number of requests for a symbol.
        backoff_seconds: the longest wait before the first retry; it doubles with each retry.
        known_missing: by symbol, sessions declared as missing at Tiingo.
    """

    session: SessionConfig = field(default_factory=SessionConfig)
    tries: int = 3
    backoff_seconds: float = 1.0
    known_missing: Mapping[str, tuple[date, ...]] = field(default_factory=dict)
    name: str = "tiingo"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, inclusive.

        Raises:
            ConfigError: the API key is missing, malformed or rejected.
            UnknownSymbol, NoData, RateLimited, SourceUnavailable, BadResponse: see `forecaster.domain.errors`.
        """
        key, session = _key(), _session(self.session)
        # Tiingo's spelling of share classes
        ticker = symbol.replace(".", "-").replace("/", "-")
        check_symbol(ticker)
        return fetch_with_retries(
            session, lambda: self._fetch(session, key, symbol, ticker, first, last), self.tries, self.backoff_seconds
        )

    def _fetch(
        self,
        session: MarketSession,
        key: str,
        symbol: str,
        ticker: str,
        first: np.datetime64,
        last: np.datetime64,
    ) -> Bars:
        path = f"/tiingo/daily/{quote(ticker, safe='')}"
        about = _get(session, key, symbol, _ABOUT_TYPE, "a description", path, {})
        if about.ticker.casefold() != ticker.casefold():
            raise BadResponse(
                symbol, f"Tiingo's response is for {about.ticker!r:.40}; check the spelling, or try later"
            )
        exchange = _EXCHANGES.get(about.exchangeCode or "")
        if exchange is None:
            raise BadResponse(symbol, f"Tiingo's exchange is none of {sorted(_EXCHANGES)}; use another source")
        # no end date, because a split after `last` divides the prices before it
        days = _get(session, key, symbol, _DAYS, "a list of days", f"{path}/prices", {"startDate": str(first)})
        if not days:
            raise no_bars_error(symbol, "Tiingo", exchange, first, last)
        bars = Bars(symbol, _frame(symbol, days), self._origin(symbol, exchange, about)).until(last)
        if len(bars) == 0:
            raise no_bars_error(symbol, "Tiingo", exchange, first, last)
        return bars

    def _origin(self, symbol: str, exchange: str, about: _About) -> Origin:
        return Origin(
            self.name,
            "USD",
            exchange,
            "America/New_York",
            datetime.now(UTC).isoformat(timespec="seconds"),
            first_trade=(about.startDate or "")[:10],
            known_missing=tuple(str(day) for day in self.known_missing.get(symbol, ())),
        )


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ConfigError(f"source: tiingo needs your API key; set the environment variable {KEY}")
    # an encoding error would reveal the key
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY} has characters that are not allowed in a key; copy the key again")
    return key


@cache
def _session(config: SessionConfig) -> MarketSession:
    """Return the process's session for these settings, which keeps the pause between requests."""
    return MarketSession(config, _HOST)


def _get(
    session: MarketSession,
    key: str,
    symbol: str,
    kind: TypeAdapter[ResponseT],
    what: str,
    path: str,
    query: dict[str, str],
) -> ResponseT:
    headers = {"Authorization": f"Token {key}", "Content-Type": "application/json"}
    try:
        answer = session.get(f"{_HOST}{path}", params=query, headers=headers)
    except RetryAfterTooLong as error:
        raise rate_limit_error(symbol, "Tiingo", error) from error
    except ResponseTooLarge as error:
        raise BadResponse(symbol, f"Tiingo's response is invalid: {error}; try later") from error
    except OSError as error:
        raise SourceUnavailable(
            symbol, f"Tiingo cannot be reached ({error}); check the network, or try later"
        ) from error
    status, start = answer.status_code, answer.content[:500].decode(errors="replace")
    if status == 429 or any(text in start for text in _QUOTA_MESSAGES):
        raise RateLimited(
            symbol,
            f"Tiingo limits the request rate (status {status}); run again in an hour, or next month if the monthly "
            "quota is used up",
        )
    if status in (401, 403):
        raise ConfigError(f"Tiingo rejects the key in {KEY} (status {status}); correct it")
    if status == 404:
        raise UnknownSymbol(symbol, "Tiingo does not know this symbol; check its spelling")
    if status >= 400:
        raise SourceUnavailable(symbol, f"Tiingo refuses the request (status {status}); try later")
    try:
        return parse_response(kind, answer.content, what)
    except InvalidResponse as error:
        raise BadResponse(symbol, f"Tiingo's response is invalid: {error}; try later") from error


def _frame(symbol: str, rows: tuple[_Day, ...]) -> pd.DataFrame:
    try:
        days = pd.DatetimeIndex([row.date[:10] for row in rows], name=SESSION)
    except ValueError as error:
        raise BadResponse(symbol, f"Tiingo's response is invalid: bad date ({error}); try later") from error
    columns = {ours: [getattr(row, theirs) for row in rows] for theirs, ours in _NAMES.items()}
    frame = pd.DataFrame(columns, index=days)
    # the product of the splits after each session
    later = frame[SPLIT][::-1].cumprod().shift(1, fill_value=1.0)[::-1]
    for name in (*PRICES, DIVIDEND):
        frame[name] /= later
    frame[VOLUME] *= later
    # a dividend on the day of a split is per new share, like the close
    return frame.assign(**{SPLIT: frame[SPLIT].where(frame[SPLIT] != 1, 0.0)})[list(COLUMNS)]
