"""A fake Yahoo server on loopback: chart responses from bars, and configurable misbehaviour."""

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

import numpy as np

from forecaster.data.bars import ADJUSTED_CLOSE, DIVIDEND, PRICES, SPLIT, VOLUME, Bars

ZONE = ZoneInfo("America/New_York")
# status, body and extra headers; status 0 sleeps for the seconds in the body and closes the connection
Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]
# a body shorter than its Content-Length
CUT = -1


# 64 MB of zeros, as gzip
BOMB = gzip.compress(bytes(64_000_000), 1)


def chart(bars: Bars, first: float, last: float) -> dict[str, Any]:
    """Return the chart response with the bars that open within `first` to `last`, in seconds since 1970."""
    opens = np.array([_opening(day.item()) for day in bars.sessions])
    shown = bars.frame[(opens >= first) & (opens < last)]
    stamps = [int(stamp) for stamp in opens[(opens >= first) & (opens < last)]]
    events: dict[str, Any] = {}
    for stamp, (_, row) in zip(stamps, shown.iterrows(), strict=True):
        if row[DIVIDEND]:
            events.setdefault("dividends", {})[str(stamp)] = {"amount": row[DIVIDEND], "date": stamp}
        if row[SPLIT]:
            split = {"date": stamp, "numerator": row[SPLIT], "denominator": 1.0, "splitRatio": f"{row[SPLIT]:g}:1"}
            events.setdefault("splits", {})[str(stamp)] = split
    result: dict[str, Any] = {"meta": meta(bars.symbol), "indicators": {"quote": [{}], "adjclose": [{}]}}
    if stamps:
        result["timestamp"] = stamps
        result["indicators"]["quote"] = [{name: shown[name].tolist() for name in (*PRICES, VOLUME)}]
        result["indicators"]["adjclose"] = [{"adjclose": shown[ADJUSTED_CLOSE].tolist()}]
    if events:
        result["events"] = events
    return {"chart": {"result": [result], "error": None}}


def meta(symbol: str) -> dict[str, Any]:
    """Return Yahoo's description of a symbol."""
    return {
        "currency": "USD", "symbol": symbol, "exchangeName": "NYQ", "fullExchangeName": "NYSE",
        "instrumentType": "EQUITY", "firstTradeDate": 0, "gmtoffset": -18000, "timezone": "EST",
        "exchangeTimezoneName": "America/New_York", "priceHint": 2, "dataGranularity": "1d", "range": "",
        "regularMarketTime": 1735678800, "regularMarketPrice": 1.0, "validRanges": ["1d", "max"],
        "currentTradingPeriod": {
            name: {"timezone": "EST", "start": 0, "end": 0, "gmtoffset": -18000} for name in ("pre", "regular", "post")
        },
    }  # fmt: skip


def _opening(day: Any) -> float:
    return (datetime(day.year, day.month, day.day, tzinfo=ZONE) + timedelta(hours=9, minutes=30)).timestamp()


def unknown(symbol: str) -> Answer:
    """Return Yahoo's response for an unknown symbol."""
    error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
    return 404, json.dumps({"chart": {"result": None, "error": error}}).encode()


@dataclass
class Yahoo:
    """The server's state: its bars, and the misbehaviour of its next chart responses."""

    bars: dict[str, Bars] = field(default_factory=dict)
    misbehave: Callable[[str], Answer | None] | None = None
    crumb: Answer = (200, b"FakeCrumb.01")
    exchange: str = "NYQ"
    requests: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    url: str = ""

    def answer(self, path: str, query: dict[str, list[str]]) -> Answer:
        """Return the response of a request."""
        self.requests.append(path)
        if path.endswith("/getcrumb"):
            return self.crumb
        if "/v8/finance/chart/" not in path:
            return 404, b"{}"
        symbol = unquote(path.rpartition("/")[2])
        # yfinance's first request for a symbol only needs the time zone
        if self.misbehave and "period1" in query and (bad_response := self.misbehave(symbol)):
            return bad_response
        if symbol not in self.bars:
            return unknown(symbol)
        first, last = (float(query[name][0]) if name in query else 9e9 for name in ("period1", "period2"))
        answer = chart(self.bars[symbol], first, last)
        answer["chart"]["result"][0]["meta"]["exchangeName"] = self.exchange
        return 200, json.dumps(answer).encode()


@contextmanager
def unresponsive_server() -> Iterator[str]:
    """Accept connections on a free port of loopback without ever responding; yield the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def serve_yahoo(yahoo: Yahoo, certificate: Path | None = None) -> Iterator[Yahoo]:
    """Serve on a free port of loopback; with a certificate, also as an HTTPS proxy for all of Yahoo's hosts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # headers and body in one packet: a second one would wait 40 ms for the acknowledgement of the first
        wbufsize = -1

        def do_CONNECT(self) -> None:
            host = self.path.partition(":")[0]
            if certificate is None or not host.endswith(".yahoo.com"):
                self.send_error(403)
                return
            yahoo.hosts.add(host)
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.connection = context.wrap_socket(self.connection, server_side=True)
            # read the next request of this connection through TLS
            self.rfile = self.connection.makefile("rb")
            self.wfile = cast(Any, self.connection.makefile("wb"))

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body, *headers = yahoo.answer(parts.path, parse_qs(parts.query))
            if status == 0:
                time.sleep(float(body))
                self.close_connection = True
                return
            if status == CUT:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) + 100))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Set-Cookie", "A3=fake; Domain=.yahoo.com; Path=/; Max-Age=31536000")
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def finish(self) -> None:
            super().finish()
            # the server closes only the plain socket
            self.connection.close()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yahoo.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield yahoo
    finally:
        server.shutdown()
        server.server_close()
