"""yfinance against a fake Yahoo server: good responses become bars, and bad responses raise the right error."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data import session as sessions
from forecaster.data.session import SessionConfig, retry_after
from forecaster.data.sources.yahoo import YahooSource
from forecaster.data.store import BarStore
from forecaster.data.update import update
from forecaster.domain.errors import (
    BadResponse,
    MarketDataError,
    NoData,
    RateLimited,
    SourceUnavailable,
    SourceUnreachable,
    UnknownSymbol,
)
from tests.conftest import ROOT
from tests.data.fake_yahoo import BOMB, CUT, Answer, Yahoo, chart, serve_yahoo, unresponsive_server
from tests.data.prices import Company

FIRST, LAST = np.datetime64("2024-02-01"), np.datetime64("2024-10-31")
COMPANY = Company(dividends={"2024-03-14": 1.2, "2024-09-12": 1.2}, splits={"2024-07-08": 4.0})

pytestmark = pytest.mark.filterwarnings("ignore:::yfinance")


@pytest.fixture
def yahoo() -> Iterator[Yahoo]:
    with serve_yahoo(Yahoo({"ABC": COMPANY.bars()})) as yahoo:
        yield yahoo


@pytest.fixture
def source(yahoo: Yahoo, tmp_path: Path) -> YahooSource:
    session = SessionConfig(origin=yahoo.url, pause_seconds=0, timeout_seconds=2)
    return YahooSource(session, cache=tmp_path / "yfinance", tries=3, backoff_seconds=0.01)


def test_fetch_returns_yahoos_bars(source: YahooSource) -> None:
    bars = source.fetch("ABC", FIRST, LAST)
    expected = COMPANY.bars(str(FIRST)).until(LAST)
    pd.testing.assert_frame_equal(bars.frame, expected.frame, check_freq=False, check_index_type=False, rtol=1e-9)
    assert (bars.origin.source, bars.origin.currency, bars.origin.exchange) == ("yahoo", "USD", "NYQ")


def _reply(status: int, body: Any) -> Callable[[str], Answer]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda symbol: (status, content)


def _error(code: str, description: str) -> dict[str, Any]:
    return {"chart": {"result": None, "error": {"code": code, "description": description}}}


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], Answer]:
    body = chart(COMPANY.bars(), 0, 9e9)
    change(body["chart"]["result"][0])
    return _reply(200, body)


def _quote(result: dict[str, Any]) -> dict[str, list[Any]]:
    quote: dict[str, list[Any]] = result["indicators"]["quote"][0]
    return quote


def _dividend(result: dict[str, Any]) -> dict[str, Any]:
    dividend: dict[str, Any] = next(iter(result["events"]["dividends"].values()))
    return dividend


def _began(year: int, month: int) -> Callable[[dict[str, Any]], None]:
    return lambda result: result["meta"].update(firstTradeDate=int(datetime(year, month, 1, tzinfo=UTC).timestamp()))


def _closes(result: dict[str, Any]) -> list[Any]:
    closes: list[Any] = result["indicators"]["quote"][0]["close"]
    return closes


def _repeated(row: int, seconds: int) -> Callable[[dict[str, Any]], None]:
    """Append a row again, some seconds later and at other prices; yfinance accepts rows in any order."""

    def change(result: dict[str, Any]) -> None:
        result["timestamp"].append(result["timestamp"][row] + seconds)
        for name, column in _quote(result).items():
            column.append(column[row] * (1 if name == "volume" else 1.1))
        adjusted = result["indicators"]["adjclose"][0]["adjclose"]
        adjusted.append(adjusted[row] * 1.1)

    return change


def _many_dividends(result: dict[str, Any]) -> None:
    result["events"]["dividends"] = {str(number): _dividend(result) for number in range(1000)}


def _once(answer: Callable[[str], Answer]) -> Callable[[str], Answer | None]:
    requests: list[str] = []

    def misbehave(symbol: str) -> Answer | None:
        requests.append(symbol)
        return answer(symbol) if len(requests) == 1 else None

    return misbehave


_PYTHON = re.compile(r"\w+Error\b|Traceback|<class|object at 0x")
MISBEHAVIOUR: dict[str, tuple[Callable[[str], Answer], type[MarketDataError]]] = {
    "unknown, 404": (_reply(404, _error("Not Found", "No data found, symbol may be delisted")), UnknownSymbol),
    "range ended, 400": (_reply(400, _error("Bad Request", "Data doesn't exist for startDate = 1")), SourceUnavailable),
    "too many requests": (_reply(429, b"Too Many Requests"), RateLimited),
    "500 HTML": (_reply(500, b"<html>"), SourceUnavailable),
    "500 JSON": (_reply(500, _error("Internal", "oops")), SourceUnavailable),
    "truncated JSON": (_reply(200, b'{"chart": {"result": [{"meta"'), BadResponse),
    "bad crumb": (_reply(401, _error("Unauthorized", "Invalid Crumb")), SourceUnavailable),
    "null result": (_reply(200, {"chart": {"result": None, "error": None}}), SourceUnavailable),
    "empty object": (_reply(200, {}), SourceUnavailable),
    "null": (_reply(200, b"null"), SourceUnavailable),
    "will be right back": (_reply(200, b"Will be right back"), SourceUnavailable),
    "hang": (lambda symbol: (0, b"3"), SourceUnavailable),
    "cut body": (lambda symbol: (CUT, b'{"chart": {"result": ['), SourceUnavailable),
    "reset": (lambda symbol: (0, b"0"), SourceUnavailable),
    "ragged arrays": (_changed(lambda result: _closes(result).pop()), BadResponse),
    "a string price": (_changed(lambda result: _closes(result).__setitem__(3, "x")), BadResponse),
    "no currency": (_changed(lambda result: result["meta"].pop("currency")), BadResponse),
    "no adjusted closes": (_changed(lambda result: result["indicators"].update(adjclose=[{}])), BadResponse),
    "another symbol": (_changed(lambda result: result["meta"].update(symbol="XYZ")), BadResponse),
    "bars of three months": (_changed(lambda result: result["meta"].update(dataGranularity="3mo")), BadResponse),
    "bars before the first trade": (_changed(_began(2024, 6)), BadResponse),
    "no such zone": (_changed(lambda result: result["meta"].update(exchangeTimezoneName="Moon/Sea")), BadResponse),
    "text for a dividend": (_changed(lambda result: _dividend(result).update(amount="1.2")), BadResponse),
    "a dividend without a date": (_changed(lambda result: _dividend(result).pop("date")), BadResponse),
    "a huge volume": (_changed(lambda result: _quote(result)["volume"].__setitem__(3, 1e30)), BadResponse),
    "a day beyond all calendars": (_changed(lambda result: result["timestamp"].__setitem__(3, 10**18)), BadResponse),
    "deep JSON": (_reply(200, b'{"chart": {"result": [{"meta": ' + b"[" * 100_000), BadResponse),
    "a number of 5,000 digits": (_reply(200, b'{"chart": {"result": [{"timestamp": [' + b"9" * 5000), BadResponse),
    "64 MB, compressed": (lambda symbol: (200, BOMB, {"Content-Encoding": "gzip"}), BadResponse),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "error"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR.keys())
def test_misbehaviour_raises_the_right_error_and_leaves_the_store_unchanged(
    yahoo: Yahoo, source: YahooSource, tmp_path: Path, answer: Callable[[str], Answer], error: type[MarketDataError]
) -> None:
    store, now = BarStore(tmp_path / "bars"), datetime(2025, 1, 1, tzinfo=UTC)
    update(store, source, "ABC", FIRST, np.datetime64("2024-06-03"), now)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    yahoo.misbehave = answer
    with pytest.raises(error, match=r"^ABC: Yahoo") as raised:
        update(store, source, "ABC", FIRST, LAST, now)
    assert type(raised.value) is error
    assert not _PYTHON.search(str(raised.value))
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before
    # no bad response stays in a cache
    yahoo.misbehave = None
    update(store, source, "ABC", FIRST, LAST, now)
    bars = store.read("ABC")
    assert bars is not None
    expected = COMPANY.bars(str(FIRST)).until(LAST).frame
    pd.testing.assert_frame_equal(bars.frame, expected, check_freq=False, check_index_type=False, rtol=1e-9)


def test_refusal_instead_of_a_crumb_does_not_affect_bars(yahoo: Yahoo, source: YahooSource) -> None:
    for status in (429, 200):
        yahoo.crumb = (status, b"Too Many Requests")
        expected = COMPANY.bars(str(FIRST)).until(LAST).frame
        bars = source.fetch("ABC", FIRST, LAST)
        pd.testing.assert_frame_equal(bars.frame, expected, check_freq=False, check_index_type=False, rtol=1e-9)


@pytest.mark.parametrize("status", [429, 500])
def test_fetch_retries_after_a_bad_response(yahoo: Yahoo, source: YahooSource, status: int) -> None:
    yahoo.misbehave = _once(_reply(status, b"<html>"))
    assert len(source.fetch("ABC", FIRST, LAST)) > 100


def test_unknown_symbol_raises_unknown_symbol(source: YahooSource) -> None:
    for _ in range(3):
        with pytest.raises(UnknownSymbol, match=r"^NOBODY: Yahoo does not know this symbol"):
            source.fetch("NOBODY", FIRST, LAST)


def test_empty_response_is_accepted_only_if_the_exchange_was_closed(source: YahooSource) -> None:
    with pytest.raises(NoData, match="XNYS had no completed session from 2024-06-15 to 2024-06-16"):
        source.fetch("ABC", np.datetime64("2024-06-15"), np.datetime64("2024-06-16"))
    with pytest.raises(SourceUnavailable, match="no bars from 2025-03-03 to 2025-03-07, although there were sessions"):
        source.fetch("ABC", np.datetime64("2025-03-03"), np.datetime64("2025-03-07"))


def test_refused_connection_raises_source_unreachable(tmp_path: Path) -> None:
    session = SessionConfig(origin="http://127.0.0.1:1", pause_seconds=0, timeout_seconds=2)
    with pytest.raises(SourceUnreachable, match=r"^ABC: Yahoo cannot be reached"):
        YahooSource(session, cache=tmp_path, tries=2, backoff_seconds=0.01).fetch("ABC", FIRST, LAST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: _dividend(result).update(amount="1.2"), "events.dividends.0.amount: .* number, got '1.2'"),
        (lambda result: _closes(result).__setitem__(3, "x"), "quote.0.close.3: .* number, got 'x'"),
        (lambda result: _closes(result).pop(), "close has 251 values for 252 timestamps"),
        (lambda result: result["meta"].pop("currency"), r"meta lacks \['currency'\]"),
        (lambda result: result["meta"].update(symbol="XYZ"), "Yahoo's response is for XYZ"),
        (lambda result: result["meta"].update(dataGranularity="3mo"), "bars of 3mo, not of 1d"),
        (_repeated(100, 0), "bars are only 0 s apart at timestamp 1716"),
        (_repeated(100, 3600), "bars are only 3600 s apart"),
        (_many_dividends, "there are 1000 dividends for 252 timestamps"),
        (_began(2024, 6), "first bar is of 2024-01-02, but its first trade date is 2024-05-31"),
    ],
)
def test_error_names_the_invalid_field(
    yahoo: Yahoo, source: YahooSource, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    yahoo.misbehave = _changed(change)
    with pytest.raises(BadResponse, match=message):
        source.fetch("ABC", FIRST, LAST)


def test_repeated_latest_session_is_merged(yahoo: Yahoo, source: YahooSource) -> None:
    yahoo.misbehave = _changed(_repeated(-1, 6 * 3600 + 1800))
    bars = source.fetch("ABC", FIRST, np.datetime64("2024-12-31"))
    assert bars.sessions.tolist() == COMPANY.bars().sessions.tolist()


def test_symbol_in_another_case_is_accepted(yahoo: Yahoo, source: YahooSource) -> None:
    yahoo.misbehave = _changed(lambda result: result["meta"].update(symbol="abc"))
    assert len(source.fetch("ABC", FIRST, LAST)) > 100


def test_capital_gains_count_as_dividends(yahoo: Yahoo, source: YahooSource) -> None:
    def pay(result: dict[str, Any]) -> None:
        date = _dividend(result)["date"]
        result["meta"]["instrumentType"] = "ETF"
        result["events"]["capitalGains"] = {str(date): {"amount": 0.25, "date": date}}

    yahoo.misbehave = _changed(pay)
    paid = source.fetch("ABC", FIRST, LAST).frame["dividend"]
    assert paid["2024-03-14"] == pytest.approx(1.2 / 4 + 0.25)
    assert paid["2024-09-12"] == pytest.approx(1.2 / 4)


@pytest.mark.parametrize("status", [401, 403, 418, 451])
def test_error_names_the_status_of_a_refusal(yahoo: Yahoo, source: YahooSource, status: int) -> None:
    yahoo.misbehave = _reply(status, b"<html>no</html>")
    with pytest.raises(SourceUnavailable, match=f"status {status}"):
        source.fetch("ABC", FIRST, LAST)


@pytest.mark.parametrize("status", [429, 503])
def test_fetch_waits_for_a_short_retry_after(
    yahoo: Yahoo, source: YahooSource, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    yahoo.misbehave = _once(lambda symbol: (status, b"", {"Retry-After": "7"}))
    assert len(source.fetch("ABC", FIRST, LAST)) > 100
    assert slept == [7]


@pytest.mark.parametrize("status", [429, 503])
def test_long_retry_after_raises_rate_limited_without_more_requests(
    yahoo: Yahoo, source: YahooSource, status: int
) -> None:
    yahoo.misbehave = lambda symbol: (status, b"", {"Retry-After": "3600"})
    with pytest.raises(RateLimited, match=rf"asks to wait 3600 s \(status {status}\); run again after 20..-..-.. "):
        source.fetch("ABC", FIRST, LAST)
    # a request for the time zone, and a request for the bars
    assert yahoo.requests.count("/v8/finance/chart/ABC") <= 2


@given(
    st.text()
    | st.integers().map(str)
    | st.from_regex(r"\A[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\Z")
)
def test_retry_after_accepts_any_header(header: str) -> None:
    seconds = retry_after(header)
    assert seconds is None or seconds >= 0


def test_retry_after_accepts_dates() -> None:
    at = datetime.now(UTC) + timedelta(seconds=100)
    assert retry_after(format_datetime(at, usegmt=True)) == pytest.approx(100, abs=5)


def test_unresponsive_server_raises_source_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SILENT_SECONDS", 0.5)
    with unresponsive_server() as url:
        session = SessionConfig(origin=url, pause_seconds=0, timeout_seconds=0.4)
        with pytest.raises(SourceUnreachable, match=r"^ABC: Yahoo cannot be reached \(no response for"):
            # without the limit these retries would take minutes
            YahooSource(session, cache=tmp_path, tries=500, backoff_seconds=0.01).fetch("ABC", FIRST, LAST)


def test_yahoo_can_be_asked_after_a_training(yahoo: Yahoo, tmp_path: Path) -> None:
    # TensorFlow has a libcurl of its own, which must not take the place of the one that asks Yahoo
    script = f"""
from pathlib import Path
import numpy as np
import forecaster.training.job
import tensorflow
from forecaster.data.session import SessionConfig
from forecaster.data.sources.yahoo import YahooSource
session = SessionConfig(origin="{yahoo.url}", pause_seconds=0, timeout_seconds=20)
source = YahooSource(session, cache=Path({str(tmp_path)!r}), tries=1)
print(len(source.fetch("ABC", np.datetime64("{FIRST}"), np.datetime64("{LAST}")).frame))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [str(len(COMPANY.bars(str(FIRST)).until(LAST).frame))], done.stderr


def test_timeout_of_a_symbol_does_not_make_the_source_unreachable(yahoo: Yahoo, tmp_path: Path) -> None:
    session = SessionConfig(origin=yahoo.url, pause_seconds=0, timeout_seconds=0.5)
    source = YahooSource(session, cache=tmp_path, tries=2, backoff_seconds=0.01)
    yahoo.misbehave = lambda symbol: (0, b"2")
    with pytest.raises(SourceUnavailable) as raised:
        source.fetch("ABC", FIRST, LAST)
    assert not isinstance(raised.value, SourceUnreachable)


@pytest.mark.parametrize("symbol", ["ABC?range=max", "ABC/../XYZ", "..", "A%42C", "ABC#", "A BC", "", "ABC\n", "АВС"])
def test_symbols_that_would_change_the_url_are_refused(yahoo: Yahoo, source: YahooSource, symbol: str) -> None:
    with pytest.raises(UnknownSymbol, match="is not a valid symbol: write letters"):
        source.fetch(symbol, FIRST, LAST)
    assert yahoo.requests == []


@pytest.mark.parametrize("symbol", ["BRK-B", "^GSPC", "EURUSD=X", "005930.KS", "M&M.NS", "ES=F"])
def test_symbols_with_special_characters_are_accepted(yahoo: Yahoo, source: YahooSource, symbol: str) -> None:
    yahoo.bars[symbol] = replace(COMPANY.bars(), symbol=symbol)
    assert source.fetch(symbol, FIRST, LAST).symbol == symbol


def test_row_without_values_is_dropped(yahoo: Yahoo, source: YahooSource) -> None:
    def blank(result: dict[str, Any]) -> None:
        columns = [*_quote(result).values(), result["indicators"]["adjclose"][0]["adjclose"]]
        for column in columns:
            column[100] = None

    yahoo.misbehave = _changed(blank)
    assert len(source.fetch("ABC", FIRST, LAST)) == len(COMPANY.bars().until(LAST)) - 1
