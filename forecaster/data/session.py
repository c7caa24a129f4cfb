"""HTTP to sources of market data: origin, proxy, certificates, request rate and limits."""

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
# after successive requests without a response for this long in total, no more are sent
SILENT_SECONDS = 12.0
PROBE_SECONDS = 4.0
# a longer Retry-After is an error
MAX_RETRY_AFTER = 10.0
_MAX_WAITS = 3
_BUSY_STATUSES = (429, 503)


class SessionConfig(Config):
    """HTTP settings of a source.

    Args:
        origin: `scheme://host:port` that replaces the source's hosts in all requests.
        proxy: the proxy of all requests; the default is `HTTPS_PROXY`.
        ca_bundle: trusted certificates; the default is `REQUESTS_CA_BUNDLE`.
        timeout_seconds: the timeout of a request.
        pause_seconds: the minimum time between two requests.
    """

    origin: str | None = None
    proxy: str | None = None
    ca_bundle: Path | None = None
    timeout_seconds: float = Field(10, gt=0)
    pause_seconds: float = Field(0.2, ge=0)


class NoResponse(OSError):
    """The source has not responded for `SILENT_SECONDS`, so no more requests are sent."""


class ResponseTooLarge(OSError):
    """A decompressed response exceeds `MAX_RESPONSE_BYTES`."""


class RetryAfterTooLong(OSError):
    """A busy source's `Retry-After` exceeds `MAX_RETRY_AFTER`.

    Args:
        status: 429 or 503.
        seconds: the requested wait.
    """

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"status {status}, Retry-After {seconds:.0f} s")
        self.status = status
        self.seconds = seconds


class MarketSession(requests.Session):  # type: ignore[misc]
    """A browser-like session with a limited request rate, total timeout and response size.

    Args:
        config: the HTTP settings.
        probe: a URL of the source; any response to it shows that the source is up and only a symbol fails.
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
        """Reset the time without a response, before the requests for a symbol."""
        self._silent = 0.0

    @property
    def is_given_up(self) -> bool:
        """Whether the source has not responded for so long that no more requests are sent."""
        return self._remaining < 0.1

    @property
    def _remaining(self) -> float:
        return max(SILENT_SECONDS, self._config.timeout_seconds) - self._silent

    def is_reachable(self) -> bool:
        """Whether the source responds; sends a probe only if the last request got no response."""
        if self._silent == 0:
            return True
        try:
            self._send("GET", self._probe, timeout=min(PROBE_SECONDS, self._config.timeout_seconds))
        except OSError:
            return False
        return True

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request at the configured rate, and again after a short `Retry-After`.

        Raises:
            NoResponse: the source has not responded for `SILENT_SECONDS`.
            ResponseTooLarge: the response exceeds `MAX_RESPONSE_BYTES`.
            RetryAfterTooLong: the source is busy for too long.
            OSError: curl's other errors.
        """
        for waits in range(_MAX_WAITS + 1):
            response = self._send_in_time(method, url, *arguments, **options)
            seconds = self._seconds_to_wait(url, response)
            if seconds is None:
                return response
            if seconds > MAX_RETRY_AFTER or waits == _MAX_WAITS:
                raise RetryAfterTooLong(response.status_code, seconds)
            time.sleep(seconds)
        raise AssertionError("the last iteration returns or raises")

    def _seconds_to_wait(self, url: str, response: Any) -> float | None:
        """Return the `Retry-After` of a busy source in seconds, or None."""
        return retry_after(response.headers.get("Retry-After")) if response.status_code in _BUSY_STATUSES else None

    def _send_in_time(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request with the remaining time as its timeout."""
        self._wait()
        if self.is_given_up:
            raise NoResponse(f"no response for {self._silent:.0f} s")
        options["timeout"] = min(self._config.timeout_seconds, self._remaining)
        return self._send(method, url, *arguments, **options)

    def _send(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        if self._config.origin:
            parts = urlsplit(url)
            url = f"{self._config.origin}{parts.path}{'?' + parts.query if parts.query else ''}"
        body = _Body()
        started = time.monotonic()
        try:
            response = super().request(method, url, *arguments, content_callback=body.take, **options)
        except ResponseTooLarge:
            self._silent = 0.0
            raise
        except OSError:
            self._silent += time.monotonic() - started
            raise
        self._silent = 0.0
        response.content = bytes(body.content)
        return response

    def _wait(self) -> None:
        with self._pace:
            pause = self._last_request_at + self._config.pause_seconds - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            self._last_request_at = time.monotonic()


class _Body:
    """Collect the decompressed bytes of a response, up to a limit that a compressed bomb would exceed."""

    def __init__(self) -> None:
        self.content = bytearray()

    def take(self, chunk: bytes) -> int:
        """Append a chunk; raise ResponseTooLarge beyond the limit, which ends the transfer."""
        if len(self.content) + len(chunk) > MAX_RESPONSE_BYTES:
            raise ResponseTooLarge(f"larger than {MAX_RESPONSE_BYTES // 2**20} MiB")
        self.content += chunk
        return len(chunk)


def retry_after(header: str | None) -> float | None:
    """Parse a `Retry-After` header, a number or a date, into seconds; None if it is neither."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}", header.strip(), re.ASCII):
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
