"""The HTTP session of yfinance: it validates charts before yfinance sees them, and keeps the status of refusals."""

import json
from typing import Any
from urllib.parse import urlsplit

from forecaster.data.session import MarketSession, SessionConfig
from forecaster.data.sources.chart import Chart, read_chart, reason_of

CHART = "/v8/finance/chart/"
_PROBE = "https://query2.finance.yahoo.com/"
_CONSENT = "consent.yahoo.com"


class ServerError(OSError):
    """A chart request got a server error, which yfinance would treat as an empty response."""


class YahooSession(MarketSession):
    """A session for yfinance.

    Attributes:
        chart: the latest chart; None if there was none.
        refusal: the status and reason of the latest chart request; empty if it succeeded.
    """

    def __init__(self, config: SessionConfig) -> None:
        super().__init__(config, _PROBE)
        self.chart: Chart | None = None
        self.refusal = ""

    def forget(self) -> None:
        """Reset `chart` and `refusal`."""
        self.chart, self.refusal = None, ""

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request; a chart response contains the validated fields only.

        Raises:
            ServerError: a chart request got a server error.
            InvalidResponse: a chart is invalid.
            OSError: see `MarketSession.request`.
        """
        response = super().request(method, url, *arguments, **options)
        # Yahoo may redirect to a consent form, which yfinance submits
        asks_consent = str(urlsplit(response.url).hostname).endswith(_CONSENT)
        if _is_chart(response.url) or (_is_chart(url) and not asks_consent):
            self._validate(response)
        return response

    def _seconds_to_wait(self, url: str, response: Any) -> float | None:
        """Wait only for charts, because they need neither the cookie nor the crumb."""
        return super()._seconds_to_wait(url, response) if _is_chart(url) else None

    def _validate(self, response: Any) -> None:
        status, content = response.status_code, response.content
        self.forget()
        if status >= 500:
            raise ServerError(f"status {status}")
        if b"Will be right back" in content:
            raise ServerError("'Will be right back'")
        if status < 400:
            self.chart = read_chart(content)
        if self.chart is not None:
            response.content = self.chart.to_json()
            return
        reason = reason_of(content)
        self.refusal = ": ".join(part for part in (f"status {status}" * (status >= 400), reason[:200]) if part)
        error = {"code": str(status), "description": reason or self.refusal} if self.refusal else None
        response.content = json.dumps({"chart": {"result": None, "error": error}}).encode()


def _is_chart(url: str) -> bool:
    return CHART in urlsplit(url).path
