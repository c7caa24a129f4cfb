"""Bars from Tiingo's end-of-day prices, with one's own key.

Its prices are as they were traded; ours are adjusted for splits, so all up to today are asked for, and those before a
split are divided by it: a split after the last date wanted counts too, as it does in the adjusted closes.
Source: Tiingo's documentation of its end-of-day endpoint.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, COLUMNS, DIVIDEND, PRICES, SESSION, SPLIT, VOLUME, Bars, Origin
from forecaster.data.session import MarketSession, SessionConfig
from forecaster.data.sources.asking import ask, nothing
from forecaster.domain.errors import BadResponse, ConfigError, RateLimited, SourceUnavailable, UnknownSymbol

KEY = "TIINGO_API_KEY"
_HOST = "https://api.tiingo.com"
_NAMES = {
    "open": "open", "high": "high", "low": "low", "close": "close", "volume": VOLUME, "adjClose": ADJUSTED_CLOSE,
    "divCash": DIVIDEND, "splitFactor": SPLIT,
}  # fmt: skip
# Tiingo's names of exchanges, as the table of calendars has them
_EXCHANGES = {
    "NYSE": "NYQ", "NYSE ARCA": "PCX", "NYSE MKT": "ASE", "NYSE AMERICAN": "ASE", "AMEX": "ASE", "BATS": "BTS",
    "NASDAQ": "NMS",
}  # fmt: skip
# what it says, also with a status of success, when requests, symbols or bytes of an hour, a day or a month are used up
_USED_UP = ("run over your", "request allocation")


@dataclass(frozen=True)
class TiingoSource:
    """Tiingo's end-of-day endpoint.

    Args:
        session: how it is reached.
        tries: how often a symbol is asked for where a retry can help.
        backoff_seconds: the longest wait before the first retry; it doubles.
    """

    session: SessionConfig = field(default_factory=SessionConfig)
    tries: int = 3
    backoff_seconds: float = 1.0
    name: str = "tiingo"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included.

        Raises:
            ConfigError: the key is not set, cannot be one, or is not accepted.
            UnknownSymbol, NoData, RateLimited, SourceUnavailable, BadResponse: as their names say.
        """
        key, session = _key(), _session(self.session)
        return ask(lambda: self._fetch(session, key, symbol, first, last), self.tries, self.backoff_seconds)

    def _fetch(self, session: MarketSession, key: str, symbol: str, first: np.datetime64, last: np.datetime64) -> Bars:
        # as Tiingo spells share classes
        path = f"/tiingo/daily/{quote(symbol.replace('.', '-').replace('/', '-'), safe='')}"
        about = _get(session, key, symbol, path, {})
        exchange = _EXCHANGES.get(str(about.get("exchangeCode")) if isinstance(about, dict) else "")
        if exchange is None:
            raise BadResponse(symbol, f"Tiingo's exchange is none of {sorted(_EXCHANGES)}; take another source")
        # without an end: a split after `last` divides the prices before it
        rows = _get(session, key, symbol, f"{path}/prices", {"startDate": str(first)})
        if rows == []:
            raise nothing(symbol, "Tiingo", exchange, first, last)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        bars = Bars(symbol, _frame(symbol, rows), Origin(self.name, "USD", exchange, "America/New_York", now)).until(
            last
        )
        if len(bars) == 0:
            raise nothing(symbol, "Tiingo", exchange, first, last)
        return bars


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ConfigError(f"source: tiingo needs your key; set the environment variable {KEY}")
    # an error of its encoding would show the key
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY} holds characters that no key has; copy the key again")
    return key


@cache
def _session(config: SessionConfig) -> MarketSession:
    """Return the process' session of this configuration: a new one would not know when the last request was."""
    return MarketSession(config)


def _get(session: MarketSession, key: str, symbol: str, path: str, query: dict[str, str]) -> Any:
    headers = {"Authorization": f"Token {key}", "Content-Type": "application/json"}
    try:
        answer = session.get(f"{_HOST}{path}", params=query, headers=headers)
    except OSError as error:
        raise SourceUnavailable(symbol, f"Tiingo cannot be reached ({error}); check the network, try later") from error
    status, text = answer.status_code, answer.text
    if status == 429 or any(words in text[:500] for words in _USED_UP):
        raise RateLimited(
            symbol, "Tiingo asks for fewer requests; wait an hour (a month's allocation: until the next) and run again"
        )
    if status in (401, 403):
        raise ConfigError(f"Tiingo does not accept the key in {KEY} (status {status}); correct it")
    if status == 404:
        raise UnknownSymbol(symbol, "Tiingo does not know it; check its spelling")
    if status >= 400:
        raise SourceUnavailable(symbol, f"Tiingo refuses (status {status}); try later")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadResponse(symbol, f"Tiingo's answer is not JSON ({error}); try later") from error


def _frame(symbol: str, rows: Any) -> pd.DataFrame:
    if not isinstance(rows, list):
        raise BadResponse(symbol, "Tiingo's answer is not a list of days; try later")
    try:
        days = pd.DatetimeIndex([row["date"][:10] for row in rows], name=SESSION)
        columns = {ours: [float(row[theirs]) for row in rows] for theirs, ours in _NAMES.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise BadResponse(symbol, f"Tiingo's answer cannot be read ({error!r}); try later") from error
    frame = pd.DataFrame(columns, index=days)
    # the product of the splits after each session
    later = frame[SPLIT][::-1].cumprod().shift(1, fill_value=1.0)[::-1]
    for name in (*PRICES, DIVIDEND):
        frame[name] /= later
    frame[VOLUME] *= later
    # a dividend on the day of a split is paid on the new shares, as its close is
    return frame.assign(**{SPLIT: frame[SPLIT].where(frame[SPLIT] != 1, 0.0)})[list(COLUMNS)]
