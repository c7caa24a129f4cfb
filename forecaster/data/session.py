"""The one place that knows about HTTP to sources: origin, proxy, certificates, pace, time-outs, server errors."""

import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curl_cffi import requests
from pydantic import Field

from forecaster.domain.config import Config

CHART = "/v8/finance/chart/"


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


class ServerError(OSError):
    """A chart request was answered with a status of 500 or above, which must not be taken for an empty answer."""


class MarketSession(requests.Session):  # type: ignore[misc]
    """A browser-like session that keeps to its configuration."""

    def __init__(self, config: SessionConfig) -> None:
        settings: dict[str, Any] = {"impersonate": "chrome"}
        if config.proxy:
            settings["proxy"] = config.proxy
        if config.ca_bundle:
            settings["verify"] = str(config.ca_bundle)
        super().__init__(**settings)
        self._config = config
        self._pace = threading.Lock()
        self._last_request_at = 0.0

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request at the set pace, to the set origin."""
        self._wait()
        if self._config.origin:
            parts = urlsplit(url)
            url = f"{self._config.origin}{parts.path}{'?' + parts.query if parts.query else ''}"
        options["timeout"] = self._config.timeout_seconds
        return super().request(method, url, *arguments, **options)

    def _wait(self) -> None:
        with self._pace:
            ahead = self._last_request_at + self._config.pause_seconds - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            self._last_request_at = time.monotonic()


class YahooSession(MarketSession):
    """The same for yfinance, which would take a server's error for an empty answer."""

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request; raise ServerError where a chart cannot be had."""
        response = super().request(method, url, *arguments, **options)
        if CHART in url and response.status_code >= 500:
            raise ServerError(f"status {response.status_code}")
        return response
