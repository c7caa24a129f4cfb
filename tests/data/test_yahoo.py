"""Real yfinance against a stand-in: good answers become bars, and every bad one an error of the right kind."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.session import SessionConfig
from forecaster.data.sources.yahoo import YahooSource
from forecaster.data.store import BarStore
from forecaster.data.update import update
from forecaster.domain.errors import (
    BadResponse,
    MarketDataError,
    NoData,
    RateLimited,
    SourceUnavailable,
    UnknownSymbol,
)
from tests.data.prices import Company
from tests.data.yahoo_stand_in import CUT, Answer, Yahoo, chart, standing_in

FIRST, LAST = np.datetime64("2024-02-01"), np.datetime64("2024-10-31")
COMPANY = Company(dividends={"2024-03-14": 1.2, "2024-09-12": 1.2}, splits={"2024-07-08": 4.0})

pytestmark = pytest.mark.filterwarnings("ignore:::yfinance")


@pytest.fixture
def yahoo() -> Iterator[Yahoo]:
    with standing_in(Yahoo({"ABC": COMPANY.bars()})) as yahoo:
        yield yahoo


@pytest.fixture
def source(yahoo: Yahoo, tmp_path: Path) -> YahooSource:
    session = SessionConfig(origin=yahoo.url, pause_seconds=0, timeout_seconds=2)
    return YahooSource(session, cache=tmp_path / "yfinance", tries=3, backoff_seconds=0.01)


def test_bars_arrive_as_they_are(source: YahooSource) -> None:
    bars = source.fetch("ABC", FIRST, LAST)
    expected = COMPANY.bars(str(FIRST)).until(LAST)
    pd.testing.assert_frame_equal(bars.frame, expected.frame, check_freq=False, check_index_type=False, rtol=1e-9)
    assert (bars.origin.source, bars.origin.currency, bars.origin.exchange) == ("yahoo", "USD", "NYQ")


def _says(status: int, body: Any) -> Callable[[str], Answer]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda symbol: (status, content)


def _error(code: str, description: str) -> dict[str, Any]:
    return {"chart": {"result": None, "error": {"code": code, "description": description}}}


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], Answer]:
    body = chart(COMPANY.bars(), 0, 9e9)
    change(body["chart"]["result"][0])
    return _says(200, body)


def _closes(result: dict[str, Any]) -> list[Any]:
    closes: list[Any] = result["indicators"]["quote"][0]["close"]
    return closes


def _once(answer: Callable[[str], Answer]) -> Callable[[str], Answer | None]:
    told: list[str] = []

    def misbehave(symbol: str) -> Answer | None:
        told.append(symbol)
        return answer(symbol) if len(told) == 1 else None

    return misbehave


MISBEHAVIOUR: dict[str, tuple[Callable[[str], Answer], type[MarketDataError]]] = {
    "unknown, 404": (_says(404, _error("Not Found", "No data found, symbol may be delisted")), UnknownSymbol),
    "range ended, 400": (_says(400, _error("Bad Request", "Data doesn't exist for startDate = 1")), SourceUnavailable),
    "too many requests": (_says(429, b"Too Many Requests"), RateLimited),
    "500 HTML": (_says(500, b"<html>"), SourceUnavailable),
    "500 JSON": (_says(500, _error("Internal", "oops")), SourceUnavailable),
    "truncated JSON": (_says(200, b'{"chart": {"result": [{"meta"'), BadResponse),
    "bad crumb": (_says(401, _error("Unauthorized", "Invalid Crumb")), SourceUnavailable),
    "null result": (_says(200, {"chart": {"result": None, "error": None}}), SourceUnavailable),
    "empty object": (_says(200, {}), SourceUnavailable),
    "null": (_says(200, b"null"), SourceUnavailable),
    "will be right back": (_says(200, b"Will be right back"), SourceUnavailable),
    "hang": (lambda symbol: (0, b"3"), SourceUnavailable),
    "cut body": (lambda symbol: (CUT, b'{"chart": {"result": ['), SourceUnavailable),
    "reset": (lambda symbol: (0, b"0"), SourceUnavailable),
    "ragged arrays": (_changed(lambda result: _closes(result).pop()), BadResponse),
    "a string price": (_changed(lambda result: _closes(result).__setitem__(3, "x")), BadResponse),
    "no currency": (_changed(lambda result: result["meta"].pop("currency")), BadResponse),
    "no adjusted closes": (_changed(lambda result: result["indicators"].update(adjclose=[{}])), BadResponse),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "error"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR.keys())
def test_each_misbehaviour_is_an_error_of_its_kind_and_the_store_stays_as_it_was(
    yahoo: Yahoo, source: YahooSource, tmp_path: Path, answer: Callable[[str], Answer], error: type[MarketDataError]
) -> None:
    store, now = BarStore(tmp_path / "bars"), datetime(2025, 1, 1, tzinfo=UTC)
    update(store, source, "ABC", FIRST, np.datetime64("2024-06-03"), now)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    yahoo.misbehave = answer
    with pytest.raises(error, match=r"^ABC: Yahoo") as raised:
        update(store, source, "ABC", FIRST, LAST, now)
    assert type(raised.value) is error
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before
    # and nothing of it is remembered
    yahoo.misbehave = None
    update(store, source, "ABC", FIRST, LAST, now)
    bars = store.read("ABC")
    assert bars is not None
    expected = COMPANY.bars(str(FIRST)).until(LAST).frame
    pd.testing.assert_frame_equal(bars.frame, expected, check_freq=False, check_index_type=False, rtol=1e-9)


def test_a_refusal_that_comes_as_a_crumb_spoils_no_bars(yahoo: Yahoo, source: YahooSource) -> None:
    for status in (429, 200):
        yahoo.crumb = (status, b"Too Many Requests")
        expected = COMPANY.bars(str(FIRST)).until(LAST).frame
        bars = source.fetch("ABC", FIRST, LAST)
        pd.testing.assert_frame_equal(bars.frame, expected, check_freq=False, check_index_type=False, rtol=1e-9)


@pytest.mark.parametrize("status", [429, 500])
def test_one_bad_answer_is_recovered_from(yahoo: Yahoo, source: YahooSource, status: int) -> None:
    yahoo.misbehave = _once(_says(status, b"<html>"))
    assert len(source.fetch("ABC", FIRST, LAST)) > 100


def test_a_symbol_that_was_never_known(source: YahooSource) -> None:
    for _ in range(3):
        with pytest.raises(UnknownSymbol, match=r"^NOBODY: Yahoo does not know it"):
            source.fetch("NOBODY", FIRST, LAST)


def test_an_empty_answer_is_believed_only_where_the_exchange_was_closed(source: YahooSource) -> None:
    with pytest.raises(NoData, match="XNYS had no completed session from 2024-06-15 to 2024-06-16"):
        source.fetch("ABC", np.datetime64("2024-06-15"), np.datetime64("2024-06-16"))
    with pytest.raises(SourceUnavailable, match="no bars from 2025-03-03 to 2025-03-07, where there must be some"):
        source.fetch("ABC", np.datetime64("2025-03-03"), np.datetime64("2025-03-07"))


def test_a_server_that_is_not_there_is_said_soon(tmp_path: Path) -> None:
    session = SessionConfig(origin="http://127.0.0.1:1", pause_seconds=0, timeout_seconds=2)
    with pytest.raises(SourceUnavailable, match=r"^ABC: Yahoo cannot be reached"):
        YahooSource(session, cache=tmp_path, tries=2, backoff_seconds=0.01).fetch("ABC", FIRST, LAST)
