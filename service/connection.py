"""HTTP connections: uvicorn's protocol with limits on sizes, times and the number of connections.

The limits apply before authentication, so they are the same for all clients.
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

MAX_HEAD_BYTES, MAX_TARGET_BYTES, MAX_HEADERS = 64 * 1024, 8 * 1024, 100
# pipelined requests that may wait for the current request to be answered
MAX_PIPELINED = 16
# beyond this number of chunks a body must have this many bytes per chunk, since tiny chunks are slow to parse
MAX_BODY_PARTS, MIN_PART_BYTES = 10_000, 64
# received data is parsed in pieces of this size, so that parsing stops soon after a limit is exceeded
_PIECE_BYTES = 16 * 1024
# headers that determine the length of a body
_FRAMING_HEADERS = (b"content-length", b"transfer-encoding")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
# pause between reads of a body that is discarded, so that its sender cannot keep the event loop busy
_PAUSE_SECONDS = 0.02


@dataclass
class ConnectionLimits:
    """The limits of every connection, and the connections that wait for their clients, longest first.

    Args:
        head_seconds: time limit for receiving a request's head, or the rest of a body that is discarded.
        write_seconds: how long a client may read none of its answer.
        max_connections: maximum number of connections.
        count: called with the status of each request that a connection refuses.
    """

    head_seconds: float
    write_seconds: float
    max_connections: int
    count: Callable[[int], None]
    waiting: dict["LimitedProtocol", None] = field(default_factory=dict)


class _Refused(Exception):
    """Raised in a parser callback to stop the parser."""


class LimitedProtocol(HttpToolsProtocol):
    """A connection with the limits `limits`, which a subclass sets."""

    limits: ConnectionLimits
    _refusal: tuple[HTTPStatus, str] | None = None
    _is_in_head, _is_body_discarded, _is_replaying = True, False, False
    _head_bytes = _silent_bytes = _body_bytes = _n_parts = 0
    _deadline: asyncio.TimerHandle | None = None
    _write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a request. If there are too many connections, close the one that has waited for longest."""
        super().connection_made(transport)
        self._wait_for_client()
        if len(self.connections) > self.limits.max_connections:
            longest = next(iter(self.limits.waiting))
            if longest is self:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; retry")
            else:
                longest._stop_waiting()
                longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data in pieces."""
        for start in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            # the parser makes no callback for an unfinished header or trailer, or for chunk extensions
            self._silent_bytes += len(piece)
            self._parse(piece)
            if self._silent_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(*_HEAD_TOO_LARGE)
        if self._is_body_discarded and not self.transport.is_closing():
            self._is_body_discarded = False
            self.flow.pause_reading()
            self.loop.call_later(_PAUSE_SECONDS, self._resume_reading)

    def _parse(self, piece: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Ignore a request to upgrade the protocol, as HTTP allows, and parse the rest.

        The parser ends such a request after its head. A new parser gets the headers that announce the body.
        """
        self.parser = httptools.HttpRequestParser(self)
        framing = [header for header in self.headers if header[0] in _FRAMING_HEADERS]
        if framing:
            self._is_replaying = True
            lines = [b"POST / HTTP/1.1", *(b"%s: %s" % header for header in framing), b"", b""]
            self.parser.feed_data(b"\r\n".join(lines))
            self._is_replaying = False
            if framing != [(b"content-length", b"0")]:
                self.cycle.more_body = True
        self._parse(rest)

    def on_message_begin(self) -> None:
        """Start a request's head."""
        if self._is_replaying:
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(HTTPStatus.BAD_REQUEST, f"more than {MAX_PIPELINED} pipelined requests; read the answers first")
        self._is_in_head = True
        self._head_bytes = self._silent_bytes = self._body_bytes = self._n_parts = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Receive a part of the request target."""
        if self._is_replaying:
            return
        super().on_url(url)
        self._count_head(len(url))
        if len(self.url) > MAX_TARGET_BYTES:
            self._stop(HTTPStatus.REQUEST_URI_TOO_LONG, f"the request target is longer than {MAX_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header. Trailers are counted as headers and dropped."""
        if self._is_replaying:
            return
        self._count_head(len(name) + len(value) + 4)
        if self._is_in_head:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._stop(*_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Start the request; from here on the application limits the body."""
        if self._is_replaying:
            return
        absolute = _ABSOLUTE.match(self.url)
        if absolute:
            # the authority of an absolute target replaces the Host header, and the middleware checks it
            self.headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in self.headers]
            self.url = self.url[absolute.end() :]
            self.url = self.url if self.url.startswith(b"/") else b"/" + self.url
        if not self.url.startswith(b"/") or self.parser.get_method() == b"CONNECT":
            self._stop(HTTPStatus.BAD_REQUEST, "the request target must be a path; this is not a proxy")
        super().on_headers_complete()
        self._is_in_head = False
        self._stop_waiting()

    def on_body(self, body: bytes) -> None:
        """Receive a part of a body."""
        self._silent_bytes = 0
        self._is_body_discarded = self.cycle.response_complete
        self._n_parts += 1
        self._body_bytes += len(body)
        if self._n_parts > MAX_BODY_PARTS and self._body_bytes < MIN_PART_BYTES * self._n_parts:
            self._stop(HTTPStatus.BAD_REQUEST, f"the body has chunks of less than {MIN_PART_BYTES} bytes")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request, if this one was answered before its body was complete."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for_client()

    def on_response_complete(self) -> None:
        """Wait for the rest of the body and the next request, unless the next request has arrived already."""
        super().on_response_complete()
        if self not in self.connections:
            # the client of this pipelined request has disconnected
            return
        if self.transport.is_closing():
            self._close()
        elif self.cycle.response_complete:
            self._wait_for_client()

    def pause_writing(self) -> None:
        """Start the time limit for the client to read some of its answer."""
        super().pause_writing()
        self.limits.waiting[self] = None
        self._write_deadline = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel that time limit."""
        if self._write_deadline:
            self._write_deadline.cancel()
            self._write_deadline = None
            if self.cycle and not self.cycle.response_complete:
                self.limits.waiting.pop(self, None)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self._close()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser cannot read, or that a callback refused."""
        self._refuse(*(self._refusal or (HTTPStatus.BAD_REQUEST, "not a valid HTTP/1.1 request")))

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _count_head(self, count: int) -> None:
        self._silent_bytes = 0
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES:
            self._stop(*_HEAD_TOO_LARGE)

    def _stop(self, status: HTTPStatus, detail: str) -> None:
        self._refusal = status, detail
        raise _Refused

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Send a problem if this request's response is the next to be sent, and close the connection."""
        self.limits.count(status)
        cycle = self.cycle
        if self._is_in_head:
            is_next = cycle is None or cycle.response_complete
        else:
            is_next = not (self.pipeline or cycle.response_started)
        if is_next:
            self.transport.write(_as_response(status, detail))
        if cycle is not None:
            # the application must not answer this request too
            cycle.disconnected = True
            cycle.message_event.set()
        self._close()

    def _wait_for_client(self) -> None:
        self._stop_waiting()
        self.limits.waiting[self] = None
        self._deadline = self.loop.call_later(self.limits.head_seconds, self._close)

    def _stop_waiting(self) -> None:
        self.limits.waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        """Close the connection after the client has read the rest, or after `write_seconds`."""
        self._stop_waiting()
        self.transport.close()
        self.limits.waiting[self] = None
        self._deadline = self.loop.call_later(self.limits.write_seconds, self.transport.abort)


_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request head is larger than {MAX_HEAD_BYTES} bytes or has more than {MAX_HEADERS} headers",
)


def limited_protocol(limits: ConnectionLimits) -> type[LimitedProtocol]:
    """Return the protocol class of a server's connections."""

    class Protocol(LimitedProtocol):
        pass

    Protocol.limits = limits
    return Protocol


def _as_response(status: HTTPStatus, detail: str) -> bytes:
    response = problem(status, detail, headers={"Connection": "close"})
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [b"%s: %s" % header for header in (*response.raw_headers, *HEADERS)]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
