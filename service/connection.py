"""A connection: uvicorn's protocol, with bounds on what a client may send and how long it may keep the server waiting.

All of this holds before any key is looked at, so nothing here depends on who the client is.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.middleware import HEADERS
from service.problems import problem

HEAD_BYTES, TARGET_BYTES, MOST_HEADERS = 64 * 1024, 8 * 1024, 100
# requests that wait while the one before them is answered
MOST_PIPELINED = 16
# a body of so many parts must have this many bytes in each, or taking it apart costs more than it says
MOST_PARTS, LEAST_PART = 10_000, 64
# what is read is parsed in pieces, so that nothing far beyond a bound is looked at
_PIECE = 16 * 1024
# what says how long a body is
_FRAMING = (b"content-length", b"transfer-encoding")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
# after each part of a body that nobody reads any more: those who go on sending must not keep the event loop busy
_PAUSE_SECONDS = 0.02


@dataclass
class Bounds:
    """What every connection is held to, and the connections that keep the server waiting, longest first.

    Args:
        head_seconds: how long a request's head may take, and what is left of a body that nobody reads.
        write_seconds: how long a client may read nothing of its answer.
        most_connections: connections at once.
        count: called with the status of each request that is refused here.
    """

    head_seconds: float
    write_seconds: float
    most_connections: int
    count: Callable[[int], None]
    waiting: dict["BoundedProtocol", None] = field(default_factory=dict)


class _Refused(Exception):
    """Stops the parser."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is held to `bounds`, which a subclass sets."""

    bounds: Bounds
    _refusal: tuple[HTTPStatus, str] | None = None
    _is_in_head, _is_body_unwanted, _is_retelling = True, False, False
    _head_bytes = _silent_bytes = _body_bytes = _n_parts = 0
    _deadline: asyncio.TimerHandle | None = None
    _write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a head; beyond the most connections, end the one that has kept the server waiting longest."""
        super().connection_made(transport)
        self._wait_for_client()
        if len(self.connections) > self.bounds.most_connections:
            longest = next(iter(self.bounds.waiting))
            if longest is self:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "there are too many connections; try again in a moment")
            else:
                longest._go_on()
                longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._go_on()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, piece by piece."""
        for begin in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            piece = data[begin : begin + _PIECE]
            # the parser keeps an unfinished header or trailer to itself, and skips extensions of chunks
            self._silent_bytes += len(piece)
            self._parse(piece)
            if self._silent_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(*_HEAD_TOO_LARGE)
        if self._is_body_unwanted and not self.transport.is_closing():
            self._is_body_unwanted = False
            self.flow.pause_reading()
            self.loop.call_later(_PAUSE_SECONDS, self._read_on)

    def _parse(self, piece: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as asked:
            self._stay(piece[asked.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _stay(self, rest: bytes) -> None:
        """Ignore that the client would rather speak another protocol, as HTTP allows, and parse the rest.

        The parser takes the request to end with its head: another one is told of the body that is to come.
        """
        self.parser = httptools.HttpRequestParser(self)
        framing = [header for header in self.headers if header[0] in _FRAMING]
        if framing:
            self._is_retelling = True
            lines = [b"POST / HTTP/1.1", *(b"%s: %s" % header for header in framing), b"", b""]
            self.parser.feed_data(b"\r\n".join(lines))
            self._is_retelling = False
            if framing != [(b"content-length", b"0")]:
                self.cycle.more_body = True
        self._parse(rest)

    def on_message_begin(self) -> None:
        """Begin a head."""
        if self._is_retelling:
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            self._stop(HTTPStatus.BAD_REQUEST, f"more than {MOST_PIPELINED} requests wait; read answers first")
        self._is_in_head = True
        self._head_bytes = self._silent_bytes = self._body_bytes = self._n_parts = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        if self._is_retelling:
            return
        super().on_url(url)
        self._count_head(len(url))
        if len(self.url) > TARGET_BYTES:
            self._stop(HTTPStatus.REQUEST_URI_TOO_LONG, f"the request's target is longer than {TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is counted as one, and dropped."""
        if self._is_retelling:
            return
        self._count_head(len(name) + len(value) + 4)
        if self._is_in_head:
            super().on_header(name, value)
            if len(self.headers) > MOST_HEADERS:
                self._stop(*_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Begin to answer; from here on the body has a limit of its own."""
        if self._is_retelling:
            return
        absolute = _ABSOLUTE.match(self.url)
        if absolute:
            # its authority counts, and is looked at as the header is
            self.headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in self.headers]
            self.url = self.url[absolute.end() :]
            self.url = self.url if self.url.startswith(b"/") else b"/" + self.url
        if not self.url.startswith(b"/") or self.parser.get_method() == b"CONNECT":
            self._stop(HTTPStatus.BAD_REQUEST, "the request's target must be a path; this is no proxy")
        super().on_headers_complete()
        self._is_in_head = False
        self._go_on()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._silent_bytes = 0
        self._is_body_unwanted = self.cycle.response_complete
        self._n_parts += 1
        self._body_bytes += len(body)
        if self._n_parts > MOST_PARTS and self._body_bytes < LEAST_PART * self._n_parts:
            self._stop(HTTPStatus.BAD_REQUEST, f"the body comes in parts of less than {LEAST_PART} bytes")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head, where this request was answered before all of it came."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for_client()

    def on_response_complete(self) -> None:
        """Wait for what is left of the body and for the next head, unless another request has come already."""
        super().on_response_complete()
        if self not in self.connections:
            # an earlier one of pipelined requests, whose client has gone
            return
        if self.transport.is_closing():
            self._end()
        elif self.cycle.response_complete:
            self._wait_for_client()

    def pause_writing(self) -> None:
        """Give the client a while to read some of its answer."""
        super().pause_writing()
        self.bounds.waiting[self] = None
        self._write_deadline = self.loop.call_later(self.bounds.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, as the client has read."""
        if self._write_deadline:
            self._write_deadline.cancel()
            self._write_deadline = None
            if self.cycle and not self.cycle.response_complete:
                self.bounds.waiting.pop(self, None)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that nobody uses."""
        self._end()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser cannot read, or what one of the above has stopped it at."""
        self._refuse(*(self._refusal or (HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request")))

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _count_head(self, count: int) -> None:
        self._silent_bytes = 0
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES:
            self._stop(*_HEAD_TOO_LARGE)

    def _stop(self, status: HTTPStatus, detail: str) -> None:
        self._refusal = status, detail
        raise _Refused

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer a problem where an answer is due next, and end the connection."""
        self.bounds.count(status)
        cycle = self.cycle
        if self._is_in_head:
            is_due = cycle is None or cycle.response_complete
        else:
            is_due = not (self.pipeline or cycle.response_started)
        if is_due:
            self.transport.write(_as_response(status, detail))
        if cycle is not None:
            # whoever works on it must not answer too
            cycle.disconnected = True
            cycle.message_event.set()
        self._end()

    def _wait_for_client(self) -> None:
        self._go_on()
        self.bounds.waiting[self] = None
        self._deadline = self.loop.call_later(self.bounds.head_seconds, self._end)

    def _go_on(self) -> None:
        self.bounds.waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        """Close the connection, at the latest once the client has had its time to read what is left."""
        self._go_on()
        self.transport.close()
        self.bounds.waiting[self] = None
        self._deadline = self.loop.call_later(self.bounds.write_seconds, self.transport.abort)


_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request's head is larger than {HEAD_BYTES} bytes or has more than {MOST_HEADERS} headers",
)


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """Return a protocol for the connections of one server."""

    class Protocol(BoundedProtocol):
        pass

    Protocol.bounds = bounds
    return Protocol


def _as_response(status: HTTPStatus, detail: str) -> bytes:
    answer = problem(status, detail, headers={"Connection": "close"})
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [b"%s: %s" % header for header in (*answer.raw_headers, *HEADERS)]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
