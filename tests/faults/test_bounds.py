"""Limits on connections and requests that apply before authentication."""

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
from tests.faults.conftest import RunningService, running
from tests.service.conftest import forecast_request, series

HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/forecasts HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def limited(models: TrainedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Yield a service with short time limits and few connections."""
    folder = tmp_path_factory.mktemp("limited")
    settings = {"BODY_TIMEOUT_SECONDS": 1.5, "WRITE_TIMEOUT_SECONDS": 1.5, "MAX_CONNECTIONS": 40}
    with running(models.cache, f"sqlite:///{folder}/service.db", **settings) as service:
        yield service


def connect(service: RunningService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def peak_megabytes(service: RunningService) -> float:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.process.pid}/status").read_text())
    assert match
    return int(match[1]) / 1000


def send(service: RunningService, start: bytes, more: bytes = b"", times: int = 0) -> bytes:
    """Send `start`, and `more` so many times; return the response. The service may close the connection earlier."""
    with closing(connect(service)) as raw:
        with suppress(ConnectionError):
            raw.sendall(start)
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
    ("start", "more", "status"),
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
def test_endless_head_or_body_is_refused_early(limited: RunningService, start: bytes, more: bytes, status: int) -> None:
    before = peak_megabytes(limited)
    answer = send(limited, start, more, 1000)
    # the kernel may discard the response of a reset connection
    assert answer == b"" or status_of(answer) == status
    assert peak_megabytes(limited) < before + 20
    assert limited.forecast()[0] == 200


def test_refused_head_gets_a_problem_with_security_headers(limited: RunningService) -> None:
    answer = send(limited, HEAD + b"A: " + b"a" * 70_000 + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(head) == 431
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"connection: close" in head
    assert json.loads(body)["status"] == 431
    # a head just below the limit is accepted
    answer = send(limited, HEAD + b"Connection: close\r\nA: " + b"a" * 60_000 + b"\r\n\r\n")
    assert status_of(answer) == 200


def test_pipelined_requests_are_limited(limited: RunningService) -> None:
    request = HEAD + b"\r\n"
    before = peak_megabytes(limited)
    send(limited, b"", request * 1000, 300)
    assert peak_megabytes(limited) < before + 20
    # ten pipelined requests are answered in order
    answer = send(limited, request * 9 + HEAD + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 10


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (HEAD, b"A: b\r\n"),
        (HEAD + b"\r\n", b"\r\n"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"a"),
        (b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["a head", "empty lines", "a body of a GET", "a body of an unknown route"],
)
def test_slow_sender_is_disconnected(limited: RunningService, start: bytes, drop: bytes) -> None:
    with closing(connect(limited)) as raw:
        raw.sendall(start)
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


def test_idle_connections_make_room_for_new_ones(limited: RunningService) -> None:
    crowd = [connect(limited) for _ in range(60)]
    for raw in crowd[::2]:
        raw.sendall(b"GET /health/li")
    assert limited.request("GET", "/health/live")[0] == 200
    assert limited.forecast()[0] == 200
    # the oldest connections were closed
    links = [file.readlink() for file in Path(f"/proc/{limited.process.pid}/fd").iterdir() if file.is_symlink()]
    assert sum("socket" in str(link) for link in links) < 50
    assert crowd[0].recv(1000) == b""
    for raw in crowd:
        raw.close()


def test_unread_answer_is_dropped(limited: RunningService) -> None:
    many = [series(24, f"s{number}") for number in range(1500)]
    body = json.dumps(
        forecast_request(series=many, horizon=40, quantiles=[0.1, 0.25, 0.5, 0.75, 0.9], level=None)
    ).encode()
    with closing(socket.socket()) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", limited.port))
        raw.sendall(POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = raw.recv(10_000)
        assert status_of(answer) == 200
        length = int(re.findall(rb"content-length: (\d+)", answer)[0])
        time.sleep(5)
        assert len(answer) + len(read_all(raw)) < length
    assert limited.forecast()[0] == 200


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
def test_ambiguous_request_is_refused(limited: RunningService, request_head: bytes) -> None:
    with closing(connect(limited)) as raw:
        raw.sendall(request_head)
        assert status_of(raw.recv(10_000)) == 400


def test_websocket_handshake_is_refused(limited: RunningService) -> None:
    handshake = b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with closing(connect(limited)) as raw:
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\n" + handshake + b"\r\n",
        )
        answer = raw.recv(10_000)
    # like any request with a Host that is not allowed
    assert status_of(answer) == 400
    assert b"problem+json" in answer


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_protocol_upgrade_is_ignored(limited: RunningService, framing: str) -> None:
    # Java's HTTP client sends such headers with its first request
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for content, status in ((json.dumps(forecast_request()).encode(), 200), (HEAD + b"\r\n", 422)):
        head, body = b"Content-Length: %d\r\n\r\n" % len(content), content
        if framing == "chunks":
            head, body = b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        for pause in (0, 0.2):
            with closing(connect(limited)) as raw:
                raw.sendall(POST + upgrade + head)
                time.sleep(pause)
                raw.sendall(body + HEAD + upgrade + b"\r\n" + HEAD + b"Connection: close\r\n\r\n")
                answer = read_all(raw)
            # the body belongs to the first request and is not read as a request
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
    limited: RunningService, target: bytes, host: bytes, status: int
) -> None:
    answer = send(limited, b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, host))
    assert status_of(answer) == status


def test_connect_is_refused(limited: RunningService) -> None:
    answer = send(limited, b"CONNECT /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HEAD + b"\r\n")
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


def test_error_truncates_long_names(limited: RunningService) -> None:
    for changes in ({"model": "m" * 50_000}, {"alias": "m" * 50_000}, {"m" * 50_000: 1}):
        status, answer = limited.forecast(**changes)
        assert status == 422
        assert len(json.dumps(answer)) < 12_000


def test_large_bodies_share_a_memory_budget(models: TrainedModels, database_url: str) -> None:
    with running(models.cache, database_url, MAX_BYTES_IN_FLIGHT=2_000_000) as service:
        with closing(connect(service)) as raw:
            # a single request may exceed the budget; its body is incomplete, so it stays in flight
            raw.sendall(POST + b"Content-Length: 4000000\r\n\r\n" + b" " * 3_000_000)
            # small requests are served, while the service reads the large body
            assert [service.forecast()[0] for _ in range(20)] == [200] * 20
            assert send_large_body(service) == (503, "1")
            assert service.forecast()[0] == 200
        deadline = time.monotonic() + 20
        while send_large_body(service)[0] == 503:
            assert time.monotonic() < deadline


def send_large_body(service: RunningService) -> tuple[int, str | None]:
    """Send a large invalid body; return the status and the header `Retry-After`."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with closing(connection):
        connection.request("POST", "/v1/forecasts", b" " * 1_000_000)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["Retry-After"]
