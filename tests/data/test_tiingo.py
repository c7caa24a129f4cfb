"""Tiingo against a fake server: traded prices become split-adjusted bars, and bad responses raise errors."""

import json
import re
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from forecaster.data import session as session_limits
from forecaster.data.calendars import calendar_of
from forecaster.data.session import SessionConfig
from forecaster.data.sources.tiingo import KEY, TiingoSource
from forecaster.domain.errors import (
    BadResponse,
    ConfigError,
    ForecasterError,
    NoData,
    RateLimited,
    SourceUnavailable,
    SourceUnreachable,
    UnknownSymbol,
)
from tests.data.fake_yahoo import BOMB, Answer, unresponsive_server
from tests.data.prices import Company

FIRST, LAST = np.datetime64("2024-02-01"), np.datetime64("2024-10-31")
SECRET = "0123456789abcdef"
# a split within the requested range, and a split after it
COMPANY = Company(dividends={"2024-03-14": 1.2, "2024-09-12": 1.2}, splits={"2024-07-08": 4.0, "2024-11-18": 2.0})


def rows(first: str, last: str = "2024-12-31") -> list[dict[str, Any]]:
    """Return Tiingo's rows from `first` to `last`: prices as traded, and Tiingo's adjusted close."""
    frame = COMPANY.bars().frame
    later = frame["split"].where(frame["split"] > 0, 1.0)[::-1].cumprod().shift(1, fill_value=1.0)[::-1]
    traded = frame.assign(
        date=[f"{day:%Y-%m-%d}T00:00:00.000Z" for day in frame.index],
        adjClose=frame["adj_close"],
        volume=frame["volume"] / later,
        divCash=frame["dividend"] * later,
        splitFactor=frame["split"].where(frame["split"] > 0, 1.0),
        **{name: frame[name] * later for name in ("open", "high", "low", "close")},
    )
    # Tiingo returns more fields than are used
    frame = traded.loc[first:last].drop(columns=["adj_close", "dividend", "split"]).assign(adjOpen=0.0, adjVolume=0)
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


class Tiingo:
    """The fake server: `bad_responses` holds its next responses to price requests; `requested` records the requests."""

    def __init__(self) -> None:
        self.bad_responses: list[Answer] = []
        self.about: dict[str, Any] = {"ticker": "ABC-B", "name": "A", "exchangeCode": "NYSE", "startDate": "2024-01-02"}
        self.requested: list[str] = []
        self.asked_at: list[float] = []
        self.refusal = 403
        self.url = ""

    def answer(self, path: str, query: dict[str, list[str]], authorization: str | None) -> Answer:
        self.requested.append(path)
        self.asked_at.append(time.monotonic())
        if authorization != f"Token {SECRET}":
            return self.refusal, b'{"detail": "Invalid token."}'
        if path not in ("/tiingo/daily/ABC-B", "/tiingo/daily/ABC-B/prices"):
            return 404, b'{"detail": "Not found."}'
        if not path.endswith("/prices"):
            return 200, json.dumps(self.about).encode()
        if self.bad_responses:
            return self.bad_responses.pop(0)
        return 200, json.dumps(rows(query["startDate"][0], *query.get("endDate", []))).encode()


@pytest.fixture
def tiingo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiingo]:
    tiingo = Tiingo()
    monkeypatch.setenv(KEY, SECRET)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body, *headers = tiingo.answer(parts.path, parse_qs(parts.query), self.headers["Authorization"])
            if status == 0:
                time.sleep(1)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    tiingo.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield tiingo
    server.shutdown()
    server.server_close()


def source(tiingo: Tiingo, tries: int = 2) -> TiingoSource:
    session = SessionConfig(origin=tiingo.url, pause_seconds=0, timeout_seconds=0.5)
    return TiingoSource(session, tries=tries, backoff_seconds=0.01)


def test_fetch_adjusts_traded_prices_for_every_split(tiingo: Tiingo) -> None:
    bars = source(tiingo).fetch("ABC.B", FIRST, LAST)
    expected = COMPANY.bars(str(FIRST)).until(LAST)
    pd.testing.assert_frame_equal(bars.frame, expected.frame, check_freq=False, check_index_type=False, rtol=1e-9)
    # Tiingo's adjusted closes include events after `last`, but there is no later dividend
    np.testing.assert_allclose(bars.adjusted()["close"], bars.frame["adj_close"], rtol=1e-6)
    assert (bars.origin.source, bars.origin.currency, bars.origin.exchange) == ("tiingo", "USD", "NYQ")
    assert bars.origin.zone == "America/New_York"
    assert tiingo.requested == ["/tiingo/daily/ABC-B", "/tiingo/daily/ABC-B/prices"]


def test_fetch_matches_values_computed_by_hand_before_a_split(tiingo: Tiingo) -> None:
    traded = {
        # a dividend of 4 on a close of 400, then four shares for one
        "2024-02-01": (392.0, 404.0, 388.0, 400.0, 1_000, 0.0, 1.0, 99.0),
        "2024-02-02": (396.0, 400.0, 392.0, 396.0, 2_000, 4.0, 1.0, 99.0),
        "2024-02-05": (100.0, 102.0, 98.0, 101.0, 8_000, 0.0, 4.0, 101.0),
    }
    names = ("open", "high", "low", "close", "volume", "divCash", "splitFactor", "adjClose")
    days = [{"date": f"{day}T00:00:00.000Z", **dict(zip(names, row, strict=True))} for day, row in traded.items()]
    tiingo.bad_responses = [(200, json.dumps(days).encode())]
    bars = source(tiingo).fetch("ABC/B", FIRST, np.datetime64("2024-02-05"))
    columns = ["open", "high", "low", "close", "adj_close", "volume", "dividend", "split"]
    expected = [
        [98.0, 101.0, 97.0, 100.0, 99.0, 4_000, 0.0, 0.0],
        [99.0, 100.0, 98.0, 99.0, 99.0, 8_000, 1.0, 0.0],
        [100.0, 102.0, 98.0, 101.0, 101.0, 8_000, 0.0, 4.0],
    ]
    assert list(bars.frame.columns) == columns
    np.testing.assert_allclose(bars.frame.to_numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(bars.adjusted()["close"], bars.frame["adj_close"], rtol=1e-6)


@pytest.mark.parametrize(
    ("exchange", "calendar"),
    [("NYSE", "XNYS"), ("NYSE ARCA", "XNYS"), ("NYSE MKT", "XNYS"), ("NYSE AMERICAN", "XNYS"), ("AMEX", "XNYS"),
     ("BATS", "XNYS"), ("NASDAQ", "XNAS")],
)  # fmt: skip
def test_exchanges_map_to_calendars(tiingo: Tiingo, exchange: str, calendar: str) -> None:
    tiingo.about["exchangeCode"] = exchange
    assert calendar_of(source(tiingo).fetch("ABC.B", FIRST, LAST).origin.exchange).name == calendar


def test_pause_applies_between_symbols(tiingo: Tiingo) -> None:
    paced = TiingoSource(SessionConfig(origin=tiingo.url, pause_seconds=0.3), tries=1)
    for _ in range(2):
        paced.fetch("ABC.B", FIRST, LAST)
    assert np.diff(tiingo.asked_at).min() > 0.2


WHOLE = json.dumps(rows("2024-02-01")).encode()


def _shown(error: BaseException) -> str:
    """Return the text that a log could show of an error: the traceback, and the `repr` of the error and its causes."""
    chain = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
    return "".join(traceback.format_exception(error)) + " ".join(repr(cause) for cause in chain)


ODD: dict[str, tuple[Answer, type[ForecasterError], str]] = {
    "rate limit": ((429, b"{}"), RateLimited, "limits the request rate"),
    "rate limit with status 200": (
        (200, b"Error: You have run over your hourly request allocation."),
        RateLimited,
        "again in an hour",
    ),
    "monthly quota": (
        (200, b"You have run over your 500 symbol look up for this month. Please upgrade."),
        RateLimited,
        "next month",
    ),
    "rate limit in JSON": (
        (200, b'{"detail": "Error: You have exceeded your request allocation."}'),
        RateLimited,
        "limits the request rate",
    ),
    "server error": ((500, b"oops"), SourceUnavailable, "status 500"),
    "a page": ((200, b"<html>maintenance</html>"), BadResponse, "is not JSON"),
    "cut": ((200, WHOLE[:500]), BadResponse, "is not JSON"),
    "a field is missing": ((200, WHOLE.replace(b'"divCash"', b'"cash"')), BadResponse, "divCash"),
    "text for a number": ((200, WHOLE.replace(b'"splitFactor": 1.0', b'"splitFactor": "x"')), BadResponse, "'x'"),
    "null for a number": ((200, WHOLE.replace(b'"divCash": 0.0', b'"divCash": null')), BadResponse, "is invalid"),
    "an object": ((200, b"{}"), BadResponse, "not a list of days"),
    "null": ((200, b"null"), BadResponse, "not a list of days"),
    "no rows": ((200, b"[]"), SourceUnavailable, "returned no bars from 2024-02-01"),
    "deep JSON": ((200, b"[" * 100_000), BadResponse, "is not JSON .recursion limit"),
    "64 MB, compressed": ((200, BOMB, {"Content-Encoding": "gzip"}), BadResponse, "larger than 16 MiB"),
    "an impossible date": ((200, WHOLE.replace(b"2024-02-01T", b"2024-02-31T")), BadResponse, "bad date"),
    "a split of zero": ((200, WHOLE.replace(b'"splitFactor": 1.0', b'"splitFactor": 0')), BadResponse, "0.splitFactor"),
    "long Retry-After": ((429, b"", {"Retry-After": "3600"}), RateLimited, "asks to wait 3600 s .status 429"),
    "long Retry-After with 503": ((503, b"", {"Retry-After": "3600"}), RateLimited, "asks to wait 3600 s .status 503"),
    "hangs": ((0, b""), SourceUnavailable, "cannot be reached"),
}


@pytest.mark.parametrize("name", ODD)
def test_invalid_responses_raise_the_right_error(tiingo: Tiingo, name: str) -> None:
    answer, kind, message = ODD[name]
    tiingo.bad_responses = [answer, answer]
    with pytest.raises(kind, match=message) as error:
        source(tiingo).fetch("ABC.B", FIRST, LAST)
    assert SECRET not in _shown(error.value)
    assert not re.search(r"\w+Error\b", str(error.value))
    # no retry after a rate limit
    assert len(tiingo.bad_responses) == (1 if kind is RateLimited else 0)


@pytest.mark.parametrize("answer", [(500, b""), (429, b"", {"Retry-After": "0"}), (503, b"", {"Retry-After": "0"})])
def test_fetch_retries_after_a_bad_response(tiingo: Tiingo, answer: Answer) -> None:
    tiingo.bad_responses = [answer]
    assert len(source(tiingo).fetch("ABC.B", FIRST, LAST)) > 100


def test_fetch_errors_name_the_symbol_and_the_reason(tiingo: Tiingo, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[str, str, str, type[ForecasterError], str]] = [
        ("NOBODY", "2024-02-01", "2024-02-09", UnknownSymbol, "NOBODY: Tiingo does not know this symbol"),
        # would be ABC.B with a query string
        ("ABC.B?x", "2024-02-01", "2024-02-09", UnknownSymbol, "is not a valid symbol"),
        # a weekend
        ("ABC.B", "2024-02-03", "2024-02-04", NoData, "XNYS had no completed session"),
    ]
    for symbol, first, last, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            source(tiingo).fetch(symbol, np.datetime64(first), np.datetime64(last))
        assert SECRET not in _shown(error.value)
    # an empty list on a weekend means no data, but any other type is a bad response
    saturday, sunday = np.datetime64("2024-02-03"), np.datetime64("2024-02-04")
    tiingo.bad_responses = [(200, b"[]")]
    with pytest.raises(NoData, match="no completed session"):
        source(tiingo).fetch("ABC.B", saturday, sunday)
    tiingo.bad_responses = [(200, b"{}")]
    with pytest.raises(BadResponse, match="not a list"):
        source(tiingo, tries=1).fetch("ABC.B", saturday, sunday)
    tiingo.about["exchangeCode"] = "SHE"
    with pytest.raises(BadResponse, match="exchange is none of"):
        source(tiingo, tries=1).fetch("ABC.B", FIRST, LAST)
    nowhere = TiingoSource(SessionConfig(origin="http://127.0.0.1:1", pause_seconds=0), tries=1)
    with pytest.raises(SourceUnavailable, match="cannot be reached") as unreached:
        nowhere.fetch("ABC.B", FIRST, LAST)
    assert SECRET not in _shown(unreached.value) + repr(nowhere)


def test_response_for_another_symbol_is_refused(tiingo: Tiingo) -> None:
    tiingo.about["ticker"] = "XYZ"
    with pytest.raises(BadResponse, match=r"ABC\.B: Tiingo's response is for 'XYZ'"):
        source(tiingo).fetch("ABC.B", FIRST, LAST)


def test_unresponsive_server_raises_source_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setattr(session_limits, "SILENT_SECONDS", 0.5)
    with unresponsive_server() as url, pytest.raises(SourceUnreachable, match="ABC: Tiingo cannot be reached"):
        config = SessionConfig(origin=url, pause_seconds=0, timeout_seconds=0.4)
        TiingoSource(config, tries=500, backoff_seconds=0.01).fetch("ABC", FIRST, LAST)


@pytest.mark.parametrize("refusal", [401, 403])
def test_rejected_key_is_reported_but_not_shown(tiingo: Tiingo, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    tiingo.refusal = refusal
    monkeypatch.setenv(KEY, "wrong")
    with pytest.raises(ConfigError, match=f"rejects the key in {KEY} .status {refusal}") as error:
        source(tiingo).fetch("ABC.B", FIRST, LAST)
    assert "wrong" not in str(error.value)
    # a retry would not help
    assert len(tiingo.requested) == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, f"set the environment variable {KEY}"),
        (" \n", f"set the environment variable {KEY}"),
        (f"{SECRET}…", "copy the key again"),
        (f"{SECRET}\r\nHost: x", "copy the key again"),
    ],
)
def test_malformed_key_is_not_sent(
    tiingo: Tiingo, monkeypatch: pytest.MonkeyPatch, key: str | None, message: str
) -> None:
    if key is None:
        monkeypatch.delenv(KEY)
    else:
        monkeypatch.setenv(KEY, key)
    with pytest.raises(ConfigError, match=message) as error:
        source(tiingo).fetch("ABC.B", FIRST, LAST)
    assert SECRET not in repr(error.value)
    assert tiingo.requested == []


def test_line_end_after_the_key_is_stripped(tiingo: Tiingo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, f"{SECRET}\n")
    assert len(source(tiingo).fetch("ABC.B", FIRST, LAST)) > 100
