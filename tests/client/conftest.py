"""The real service on a socket; and a little server that answers as it is told, and remembers what it was asked."""

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
    """Return one series' hourly rows."""
    times = pd.date_range(start, periods=length, freq="h", tz=tz)
    return pd.DataFrame({"unique_id": unique_id, "ds": times, "y": [float(row % 12) / 6 - 1 for row in range(length)]})


@dataclass(frozen=True)
class Asked:
    """A request, as the little server got it."""

    line: str
    headers: Message
    body: Any


@dataclass
class LittleServer:
    """Answers each request with the next of `answers` (status, headers, body), the last one for ever; None hangs up."""

    answers: list[tuple[int, dict[str, str], Any] | None]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def answer(self) -> tuple[int, dict[str, str], Any] | None:
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


@contextmanager
def _little_server(*answers: tuple[int, dict[str, str], Any] | None) -> Iterator[LittleServer]:
    little = LittleServer(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            little.asked.append(Asked(f"{self.command} {self.path}", self.headers, json.loads(body) if body else None))
            told = little.answer()
            if told is None:
                self.close_connection = True
                return
            status, headers, content = told
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
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        little.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield little
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def little_server() -> Callable[..., Any]:
    return _little_server
