"""The one place that knows about HTTP to sources: origin, proxy, certificates, pace, and the limits of an answer."""

import re
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curl_cffi import requests
from pydantic import Field

from forecaster.domain.config import Config

# sixty years of daily bars are about 6 MiB
MAX_RESPONSE_BYTES = 16 * 2**20
# how long requests may go unanswered, one after the other, before the source is given up
SILENT_SECONDS = 12.0
PROBE_SECONDS = 4.0
# a longer Retry-After is told, not waited for
LONGEST_WAIT = 10.0
_MOST_WAITS = 3
_BUSY = (429, 503)


class SessionConfig(Config):
    """How a source is reached.

    Args:
        origin: `scheme://host:port` that every request goes to instead of the source's hosts.
        proxy: for all requests; `HTTPS_PROXY` is heeded without it.
        ca_bundle: certificates to trust; `REQUESTS_CA_BUNDLE` is heeded without it.
        timeout_seconds: for one request.
        pause_seconds: least time between two requests.
    """

    origin: str | None = None
    proxy: str | None = None
    ca_bundle: Path | None = None
    timeout_seconds: float = Field(10, gt=0)
    pause_seconds: float = Field(0.2, ge=0)


class NoResponse(OSError):
    """Requests have gone unanswered for so long that no more are sent."""


class ResponseTooLarge(OSError):
    """An answer exceeds `MAX_RESPONSE_BYTES` once it is decompressed."""


class RetryAfterTooLong(OSError):
    """The source is busy and asks to wait for longer than `LONGEST_WAIT`.

    Args:
        status: 429 or 503.
        seconds: how long.
    """

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"status {status}, asks to wait {seconds:.0f} s")
        self.status = status
        self.seconds = seconds


class MarketSession(requests.Session):  # type: ignore[misc]
    """A browser-like session that keeps to its configuration and bounds what a source can cost.

    Args:
        config: how the source is reached.
        probe: a URL of the source that anything may be answered for, to tell a dead source from a dead symbol.
    """

    def __init__(self, config: SessionConfig, probe: str) -> None:
        settings: dict[str, Any] = {"impersonate": "chrome"}
        if config.proxy:
            settings["proxy"] = config.proxy
        if config.ca_bundle:
            settings["verify"] = str(config.ca_bundle)
        super().__init__(**settings)
        self._config = config
        self._probe = probe
        self._pace = threading.Lock()
        self._last_request_at = 0.0
        self._silent = 0.0

    def begin(self) -> None:
        """Forget what went unanswered: the next requests are for another symbol."""
        self._silent = 0.0

    @property
    def is_given_up(self) -> bool:
        """Say whether requests have gone unanswered for so long that no more are sent."""
        return self._left < 0.1

    @property
    def _left(self) -> float:
        return max(SILENT_SECONDS, self._config.timeout_seconds) - self._silent

    def is_there(self) -> bool:
        """Say whether the source answers anything at all, asking only where the last request went unanswered."""
        if self._silent == 0:
            return True
        try:
            self._ask("GET", self._probe, timeout=min(PROBE_SECONDS, self._config.timeout_seconds))
        except OSError:
            return False
        return True

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request at the set pace, to the set origin, again after a short `Retry-After`.

        Raises:
            NoResponse, ResponseTooLarge, RetryAfterTooLong, or curl's own OSErrors.
        """
        for waits in range(_MOST_WAITS + 1):
            response = self._ask_once(method, url, *arguments, **options)
            seconds = self._asked_to_wait(url, response)
            if seconds is None:
                return response
            if seconds > LONGEST_WAIT or waits == _MOST_WAITS:
                raise RetryAfterTooLong(response.status_code, seconds)
            time.sleep(seconds)
        raise AssertionError("the last round returns or raises")

    def _asked_to_wait(self, url: str, response: Any) -> float | None:
        """Return the seconds that a busy source asks to wait before the next request, None where it does not."""
        return retry_after(response.headers.get("Retry-After")) if response.status_code in _BUSY else None

    def _ask_once(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send one request within what is left of the time that requests may go unanswered."""
        self._wait()
        if self.is_given_up:
            raise NoResponse(f"no answer for {self._silent:.0f} s")
        options["timeout"] = min(self._config.timeout_seconds, self._left)
        return self._ask(method, url, *arguments, **options)

    def _ask(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        if self._config.origin:
            parts = urlsplit(url)
            url = f"{self._config.origin}{parts.path}{'?' + parts.query if parts.query else ''}"
        body = _Body()
        began = time.monotonic()
        try:
            response = super().request(method, url, *arguments, content_callback=body.take, **options)
        except ResponseTooLarge:
            self._silent = 0.0
            raise
        except OSError:
            self._silent += time.monotonic() - began
            raise
        self._silent = 0.0
        response.content = bytes(body.content)
        return response

    def _wait(self) -> None:
        with self._pace:
            ahead = self._last_request_at + self._config.pause_seconds - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            self._last_request_at = time.monotonic()


class _Body:
    """The decompressed bytes of an answer as they arrive: a small compressed one may be huge."""

    def __init__(self) -> None:
        self.content = bytearray()

    def take(self, chunk: bytes) -> int:
        """Keep a chunk; raise ResponseTooLarge where it is one too many, which ends the transfer."""
        if len(self.content) + len(chunk) > MAX_RESPONSE_BYTES:
            raise ResponseTooLarge(f"larger than {MAX_RESPONSE_BYTES // 2**20} MiB")
        self.content += chunk
        return len(chunk)


def retry_after(header: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, a number or a date; None where it is neither."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}", header.strip(), re.ASCII):
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
