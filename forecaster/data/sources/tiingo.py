"""Bars from Tiingo's end-of-day prices, with one's own key.

Its prices are as they were traded; ours are adjusted for splits, so all up to today are asked for, and those before a
split are divided by it. Source: Tiingo's documentation of its end-of-day endpoint.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

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
            ConfigError: the key is not set, or not accepted.
            UnknownSymbol, NoData, RateLimited, SourceUnavailable, BadResponse: as their names say.
        """
        if not os.environ.get(KEY):
            raise ConfigError(f"source: tiingo needs your key; set the environment variable {KEY}")
        with MarketSession(self.session) as session:
            return ask(lambda: self._fetch(session, symbol, first, last), self.tries, self.backoff_seconds)

    def _fetch(self, session: MarketSession, symbol: str, first: np.datetime64, last: np.datetime64) -> Bars:
        # as Tiingo spells share classes
        path = f"/tiingo/daily/{symbol.replace('.', '-').replace('/', '-')}"
        about = _get(session, symbol, path, {})
        exchange = _EXCHANGES.get(str(about.get("exchangeCode")) if isinstance(about, dict) else "")
        if exchange is None:
            raise BadResponse(symbol, f"Tiingo's exchange is none of {sorted(_EXCHANGES)}; take another source")
        rows = _get(session, symbol, f"{path}/prices", {"startDate": str(first)})
        if rows == []:
            raise nothing(symbol, "Tiingo", exchange, first, last)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        bars = Bars(symbol, _frame(symbol, rows), Origin(self.name, "USD", exchange, "America/New_York", now)).until(
            last
        )
        if len(bars) == 0:
            raise nothing(symbol, "Tiingo", exchange, first, last)
        return bars


def _get(session: MarketSession, symbol: str, path: str, query: dict[str, str]) -> Any:
    headers = {"Authorization": f"Token {os.environ[KEY]}", "Content-Type": "application/json"}
    try:
        answer = session.get(f"{_HOST}{path}", params=query, headers=headers)
    except OSError as error:
        raise SourceUnavailable(symbol, f"Tiingo cannot be reached ({error}); check the network, try later") from error
    status, text = answer.status_code, answer.text
    # over the allocation it may answer with a sentence and a status of success
    if status == 429 or "request allocation" in text[:500]:
        raise RateLimited(symbol, "Tiingo asks for fewer requests; wait an hour and run again")
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
