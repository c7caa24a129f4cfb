"""Before a key is known: what one connection, or many, may send and keep waiting."""

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.conftest import TrainedModels
from tests.faults.conftest import Running, running
from tests.service.conftest import forecast_request, series

HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/forecasts HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def bounded(models: TrainedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bounded")
    settings = {"BODY_TIMEOUT_SECONDS": 1.5, "WRITE_TIMEOUT_SECONDS": 1.5, "MAX_CONNECTIONS": 40}
    with running(models.cache, f"sqlite:///{folder}/service.db", **settings) as service:
        yield service


def connect(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def megabytes(service: Running, what: str = "VmHWM") -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{service.process.pid}/status").read_text())
    assert found
    return int(found[1]) / 1000


def send(service: Running, begin: bytes, more: bytes = b"", times: int = 0) -> bytes:
    """Send all of it, or as much as the service takes, and return what it answers until it closes."""
    with closing(connect(service)) as raw:
        # it may close while this is still sending
        with suppress(ConnectionError):
            raw.sendall(begin)
            for _ in range(times):
                raw.sendall(more)
        return read_all(raw)


def read_all(raw: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while part := raw.recv(100_000):
            answer += part
    return answer


def status_of(answer: bytes) -> int:
    return int(answer[9:12])


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (HEAD + b"A: ", b"a" * 50_000, 431),
        (HEAD, b"A: " + b"a" * 50_000 + b"\r\n", 431),
        (HEAD, b"A: b\r\n" * 5000, 431),
        (b"GET /", b"a" * 50_000, 414),
        (CHUNKED + b"1\r\n{\r\n0\r\n", b"A: " + b"a" * 50_000 + b"\r\n", 431),
        (CHUNKED + b"1\r\n{\r\n0\r\nA: ", b"a" * 50_000, 431),
        (CHUNKED + b"1;", b"a" * 50_000, 431),
        (CHUNKED, b"1\r\n1\r\n" * 10_000, 400),
    ],
    ids=["a value", "long headers", "headers", "target", "trailers", "a trailer", "an extension", "tiny chunks"],
)
def test_endless_head_or_body_is_refused_early(bounded: Running, begin: bytes, more: bytes, status: int) -> None:
    before = megabytes(bounded)
    answer = send(bounded, begin, more, 1000)
    # what a kernel throws away with a connection cannot be read
    assert answer == b"" or status_of(answer) == status
    assert megabytes(bounded) < before + 20
    assert bounded.forecast()[0] == 200


def test_refused_head_gets_a_problem_with_security_headers(bounded: Running) -> None:
    answer = send(bounded, HEAD + b"A: " + b"a" * 70_000 + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(head) == 431
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"connection: close" in head
    assert json.loads(body)["status"] == 431
    # just below the limit it is answered
    answer = send(bounded, HEAD + b"Connection: close\r\nA: " + b"a" * 60_000 + b"\r\n\r\n")
    assert status_of(answer) == 200


def test_pipelined_requests_are_limited(bounded: Running) -> None:
    request = HEAD + b"\r\n"
    before = megabytes(bounded)
    send(bounded, b"", request * 1000, 300)
    assert megabytes(bounded) < before + 20
    # a few are answered one after the other
    answer = send(bounded, request * 9 + HEAD + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 10


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (HEAD, b"A: b\r\n"),
        (HEAD + b"\r\n", b"\r\n"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"a"),
        (b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["a head", "empty lines", "a body of a GET", "a body that nobody reads"],
)
def test_slow_sender_is_disconnected(bounded: Running, begin: bytes, drop: bytes) -> None:
    with closing(connect(bounded)) as raw:
        raw.sendall(begin)
        raw.settimeout(0.1)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                raw.sendall(drop)
                if raw.recv(10_000) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    raise AssertionError("the connection is still open")


def test_idle_connections_make_room_for_new_ones(bounded: Running) -> None:
    crowd = [connect(bounded) for _ in range(60)]
    for raw in crowd[::2]:
        raw.sendall(b"GET /health/li")
    assert bounded.request("GET", "/health/live")[0] == 200
    assert bounded.forecast()[0] == 200
    # those that came first have made room
    links = [file.readlink() for file in Path(f"/proc/{bounded.process.pid}/fd").iterdir() if file.is_symlink()]
    assert sum("socket" in str(link) for link in links) < 50
    assert crowd[0].recv(1000) == b""
    for raw in crowd:
        raw.close()


def test_unread_answer_is_dropped(bounded: Running) -> None:
    many = [series(24, f"s{number}") for number in range(1500)]
    body = json.dumps(
        forecast_request(series=many, horizon=40, quantiles=[0.1, 0.25, 0.5, 0.75, 0.9], level=None)
    ).encode()
    with closing(socket.socket()) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", bounded.port))
        raw.sendall(POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = raw.recv(10_000)
        assert status_of(answer) == 200
        length = int(re.findall(rb"content-length: (\d+)", answer)[0])
        time.sleep(5)
        assert len(answer) + len(read_all(raw)) < length
    assert bounded.forecast()[0] == 200


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:80@evil.example\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1 evil.example\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:80:80\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1/evil.example\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: [::1]evil.example\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n\r\n",
        b"GET http://evil.example/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        HEAD + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Origin: http://127.0.0.1\r\nOrigin: http://evil.example\r\n\r\n",
    ],
)
def test_ambiguous_request_is_refused(bounded: Running, request_head: bytes) -> None:
    with closing(connect(bounded)) as raw:
        raw.sendall(request_head)
        assert status_of(raw.recv(10_000)) == 400


def test_websocket_handshake_is_refused(bounded: Running) -> None:
    handshake = b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with closing(connect(bounded)) as raw:
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\n" + handshake + b"\r\n",
        )
        answer = raw.recv(10_000)
    # as any other request by a name that is not the service's
    assert status_of(answer) == 400
    assert b"problem+json" in answer


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_protocol_upgrade_is_ignored(bounded: Running, framing: str) -> None:
    # as Java's own client asks at first
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for content, status in ((json.dumps(forecast_request()).encode(), 200), (HEAD + b"\r\n", 422)):
        head, body = b"Content-Length: %d\r\n\r\n" % len(content), content
        if framing == "chunks":
            head, body = b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        for pause in (0, 0.2):
            with closing(connect(bounded)) as raw:
                raw.sendall(POST + wish + head)
                time.sleep(pause)
                raw.sendall(body + HEAD + wish + b"\r\n" + HEAD + b"Connection: close\r\n\r\n")
                answer = read_all(raw)
            # the body is that of the first request, and no request itself
            assert [int(code) for code in re.findall(rb"HTTP/1.1 (\d+)", answer)] == [status, 200, 200]


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://127.0.0.1/health/live", b"127.0.0.1", 200),
        (b"HTTP://127.0.0.1:8000/health/live?a=b", b"evil.example", 200),
        (b"http://evil.example/health/live", b"127.0.0.1", 400),
        (b"http://127.0.0.1@evil.example/health/live", b"127.0.0.1", 400),
        (b"http:///health/live", b"127.0.0.1", 400),
        (b"http://127.0.0.1", b"127.0.0.1", 200),
        (b"http://127.0.0.1?a=b", b"127.0.0.1", 200),
        (b"http://127.0.0.1/health/live", b"127.0.0.1\r\nHost: 127.0.0.1", 400),
        (b"ftp://127.0.0.1/health/live", b"127.0.0.1", 400),
    ],
)
def test_authority_of_an_absolute_target_replaces_the_host(
    bounded: Running, target: bytes, host: bytes, status: int
) -> None:
    answer = send(bounded, b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, host))
    assert status_of(answer) == status


def test_connect_is_refused(bounded: Running) -> None:
    answer = send(bounded, b"CONNECT /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HEAD + b"\r\n")
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


def test_error_truncates_long_names(bounded: Running) -> None:
    for changes in ({"model": "m" * 50_000}, {"alias": "m" * 50_000}, {"m" * 50_000: 1}):
        status, answer = bounded.forecast(**changes)
        assert status == 422
        assert len(json.dumps(answer)) < 12_000


def test_large_bodies_share_a_memory_budget(models: TrainedModels, database_url: str) -> None:
    with running(models.cache, database_url, MAX_BYTES_IN_FLIGHT=2_000_000) as service:
        with closing(connect(service)) as raw:
            # alone it may hold more than there is for all, and stops before its end
            raw.sendall(POST + b"Content-Length: 4000000\r\n\r\n" + b" " * 3_000_000)
            # meanwhile the service has read it
            assert [service.forecast()[0] for _ in range(20)] == [200] * 20
            assert large(service) == (503, "1")
            assert service.forecast()[0] == 200
        deadline = time.monotonic() + 20
        while large(service)[0] == 503:
            assert time.monotonic() < deadline


def large(service: Running) -> tuple[int, str | None]:
    """Return the status, and when to come again, of a body that is large, and no request."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with closing(connection):
        connection.request("POST", "/v1/forecasts", b" " * 1_000_000)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["Retry-After"]
