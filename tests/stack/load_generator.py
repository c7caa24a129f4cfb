"""Send forecast requests at a constant rate and record each response."""

import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_TIMEOUT_SECONDS = 30


def send(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send one request.

    Args:
        url: where to.
        body: sent as JSON by POST; None sends a GET.
        headers: of the request.

    Returns:
        The status, and the body as JSON; a body that is not JSON comes under the key `text`.

    Raises:
        OSError: there was no response.
    """
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            status, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except json.JSONDecodeError:
        return status, {"text": text}


@dataclass(frozen=True)
class Response:
    """The response to one forecast request.

    Attributes:
        at: when the request was sent, in seconds of the monotonic clock.
        seconds: the latency.
        status: of HTTP; 0 where there was no response.
        body: the JSON of the response.
    """

    at: float
    seconds: float
    status: int
    body: dict[str, Any]

    @property
    def version(self) -> int | None:
        """The version that made the forecast; None for an error."""
        return self.body["model"]["version"] if self.status == 200 else None


class LoadGenerator:
    """Send forecast requests from a thread, at a constant rate, while the context is open.

    Attributes:
        responses: in the order of the requests.
    """

    def __init__(self, url: str, key: str, body: dict[str, Any], per_second: float) -> None:
        self._url, self._key, self._body, self._pause = f"{url}/v1/forecasts", key, body, 1 / per_second
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.responses: list[Response] = []

    def __enter__(self) -> "LoadGenerator":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last response and stop."""
        self._is_over.set()
        self._thread.join()

    def send_one(self) -> Response:
        """Send one request now."""
        begin = time.monotonic()
        try:
            status, body = send(self._url, self._body, authorization=f"Bearer {self._key}")
        except OSError as error:
            status, body = 0, {"text": str(error)}
        return Response(begin, time.monotonic() - begin, status, body)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._is_over.wait(max(0.0, due - time.monotonic())):
            # A slow response delays no later request: the rate does not depend on the service.
            due += self._pause
            self.responses.append(self.send_one())
