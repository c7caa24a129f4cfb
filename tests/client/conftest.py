"""The real service on a socket, and a fake server with prepared answers that records its requests."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pandas as pd
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, listening


@pytest.fixture(scope="session")
def url(models: TrainedModels) -> Iterator[str]:
    with listening(create_app(Settings(cache_dir=models.cache, tracking_uri="", max_series=50))) as url:
        yield url


def frame(length: int = 30, unique_id: object = "a", tz: str | None = None, start: str = "2026-01-01") -> pd.DataFrame:
    """Return the hourly rows of a series."""
    times = pd.date_range(start, periods=length, freq="h", tz=tz)
    return pd.DataFrame({"unique_id": unique_id, "ds": times, "y": [float(row % 12) / 6 - 1 for row in range(length)]})


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the fake server received; `line` is its method and path."""

    line: str
    headers: Message
    body: Any


@dataclass
class FakeServer:
    """Answers each request with the next prepared answer.

    Args:
        answers: status, headers and body of each; None closes the connection. The last one repeats.
        requests: the received requests.
        url: the address.
    """

    answers: list[tuple[int, dict[str, str], Any] | None]
    requests: list[ReceivedRequest] = field(default_factory=list)
    url: str = ""

    def current_answer(self) -> tuple[int, dict[str, str], Any] | None:
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


@contextmanager
def _fake_server(*answers: tuple[int, dict[str, str], Any] | None) -> Iterator[FakeServer]:
    fake = FakeServer(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            line = f"{self.command} {self.path}"
            fake.requests.append(ReceivedRequest(line, self.headers, json.loads(body) if body else None))
            answer = fake.current_answer()
            if answer is None:
                self.close_connection = True
                return
            status, headers, content = answer
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def fake_server() -> Callable[..., Any]:
    return _fake_server
