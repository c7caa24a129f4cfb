"""A load generator: each connection sends its next request after the answer to the last."""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain.errors import ForecasterError


@dataclass(frozen=True)
class LoadResult:
    """The result of a load.

    Args:
        per_second: answers per second.
        p99_seconds: 99th percentile of the response time.
        statuses: the number of answers by status.
    """

    per_second: float
    p99_seconds: float
    statuses: dict[str, int]


class _Connection(asyncio.Protocol):
    """Sends requests in turn until a deadline; it reads only status and length of the answers."""

    def __init__(self, requests: Sequence[bytes], until: float) -> None:
        self.requests, self.until = itertools.cycle(requests), until
        self.seconds: list[float] = []
        self.statuses: dict[str, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._begin = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._begin = time.perf_counter()
        self._transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        start = lower.index(b"content-length:") + 15
        length = int(lower[start : lower.find(b"\r\n", start) if b"\r\n" in lower[start:] else None])
        if len(self._buffer) < head + 4 + length:
            return
        now = time.perf_counter()
        status = self._buffer[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.seconds.append(now - self._begin)
        self._buffer.clear()
        if now < self.until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _load(host: str, port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> LoadResult:
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    connections = []
    for number in range(concurrency):
        # each connection begins at another request
        first = number * len(requests) // concurrency
        connection = _Connection([*requests[first:], *requests[:first]], start + seconds)
        await loop.create_connection(lambda connection=connection: connection, host, port)  # type: ignore[misc]
        connections.append(connection)
    await asyncio.gather(*(connection.done for connection in connections))
    took = time.perf_counter() - start
    seconds_each = np.concatenate([connection.seconds for connection in connections])
    statuses: dict[str, int] = {}
    for connection in connections:
        for status, count in connection.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return LoadResult(len(seconds_each) / took, float(np.quantile(seconds_each, 0.99)), statuses)


def load(host: str, port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> LoadResult:
    """Send `requests` (heads and bodies) in turn over each of `concurrency` connections for `seconds`."""
    return asyncio.run(_load(host, port, requests, concurrency, seconds))


def http_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return an HTTP/1.1 POST request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


def run_load(port: int, requests: Sequence[bytes], concurrency: int = 8, seconds: float = 4) -> LoadResult:
    """Load a server from another process.

    Raises:
        ForecasterError: an answer has another status than 200.
    """
    options = {
        "host": "127.0.0.1",
        "port": port,
        "requests": [request.hex() for request in requests],
        "concurrency": concurrency,
        "seconds": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=json.dumps(options), capture_output=True, text=True, check=True
    )
    result = LoadResult(**json.loads(done.stdout))
    if set(result.statuses) != {"200"}:
        raise ForecasterError(f"requests failed; answers by status: {result.statuses}")
    return result


if __name__ == "__main__":
    # a separate process, so that client and server do not share an interpreter
    options = json.loads(sys.stdin.read())
    requests = [bytes.fromhex(request) for request in options.pop("requests")]
    result = load(requests=requests, **options)
    sys.stdout.write(json.dumps(vars(result)) + "\n")
