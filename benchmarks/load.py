"""Load a server: as many connections as asked for, each sending the next request when it has its answer."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measured:
    """What came of a load.

    Args:
        per_second: answers.
        p99_seconds: the time that all but one of a hundred took less than.
        statuses: how many answers there were of each status.
    """

    per_second: float
    p99_seconds: float
    statuses: dict[str, int]


class _Connection(asyncio.Protocol):
    """Keeps one request under way until told to stop; reads no more of an answer than its length and status."""

    def __init__(self, request: bytes, until: float) -> None:
        self.request, self.until = request, until
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
        self._transport.write(self.request)

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


async def _load(host: str, port: int, request: bytes, concurrency: int, seconds: float) -> Measured:
    loop, begin = asyncio.get_running_loop(), time.perf_counter()
    connections = [
        (await loop.create_connection(lambda: _Connection(request, begin + seconds), host, port))[1]
        for _ in range(concurrency)
    ]
    await asyncio.gather(*(connection.done for connection in connections))
    took = time.perf_counter() - begin
    every = np.concatenate([connection.seconds for connection in connections])
    statuses: dict[str, int] = {}
    for connection in connections:
        for status, count in connection.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return Measured(len(every) / took, float(np.quantile(every, 0.99)), statuses)


def load(host: str, port: int, request: bytes, concurrency: int, seconds: float) -> Measured:
    """Send `request` (head and body) over `concurrency` connections for so many seconds."""
    return asyncio.run(_load(host, port, request, concurrency, seconds))


def http_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return a POST as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


if __name__ == "__main__":
    # in a process of its own, so that it does not share a core's lock with what it loads
    given = json.loads(sys.stdin.read())
    measured = load(
        given["host"], given["port"], bytes.fromhex(given["request"]), given["concurrency"], given["seconds"]
    )
    sys.stdout.write(json.dumps(vars(measured)) + "\n")
