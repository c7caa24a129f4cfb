"""Forecasts asked for several times a second, each answer noted."""

import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_TIMEOUT_SECONDS = 30


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """Ask once; returns the status and what was answered, in JSON or as `text`. Raises OSError where nobody answers."""
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            status, said = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read().decode()
    try:
        return status, json.loads(said)
    except json.JSONDecodeError:
        return status, {"text": said}


@dataclass(frozen=True)
class Answer:
    """What came of one request; `status` is 0 where nobody answered, `at` and `seconds` are of the monotonic clock."""

    at: float
    seconds: float
    status: int
    said: dict[str, Any]

    @property
    def version(self) -> int | None:
        """Return the version that made the forecast."""
        return self.said["model"]["version"] if self.status == 200 else None


class LoadGenerator:
    """Ask for forecasts, at an even pace, from a thread, as long as the context lasts."""

    def __init__(self, url: str, key: str, body: dict[str, Any], per_second: float) -> None:
        self._url, self._key, self._body, self._pause = f"{url}/v1/forecasts", key, body, 1 / per_second
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.answers: list[Answer] = []

    def __enter__(self) -> "LoadGenerator":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End, with the last answer."""
        self._is_over.set()
        self._thread.join()

    def once(self) -> Answer:
        """Ask once, now."""
        begin = time.monotonic()
        try:
            status, said = ask(self._url, self._body, authorization=f"Bearer {self._key}")
        except OSError as error:
            status, said = 0, {"text": str(error)}
        return Answer(begin, time.monotonic() - begin, status, said)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._is_over.wait(max(0.0, due - time.monotonic())):
            # late ones are made up for: the pace is theirs, and not the service's
            due += self._pause
            self.answers.append(self.once())
