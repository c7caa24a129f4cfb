"""The session that yfinance asks Yahoo with: each chart is checked before yfinance sees it, and no status is lost."""

import json
from typing import Any
from urllib.parse import urlsplit

from forecaster.data.session import MarketSession, SessionConfig
from forecaster.data.sources.chart import Chart, read_chart, reason_of

CHART = "/v8/finance/chart/"
_PROBE = "https://query2.finance.yahoo.com/"
_CONSENT = "consent.yahoo.com"


class ServerError(OSError):
    """A chart request was answered with a server's error, which yfinance would take for an empty answer."""


class YahooSession(MarketSession):
    """A session for yfinance.

    Attributes:
        chart: the latest answer with bars or a symbol's description, None where there was none.
        refusal: the status and reason of the latest chart request, empty where it succeeded.
    """

    def __init__(self, config: SessionConfig) -> None:
        super().__init__(config, _PROBE)
        self.chart: Chart | None = None
        self.refusal = ""

    def forget(self) -> None:
        """Forget the latest chart."""
        self.chart, self.refusal = None, ""

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send a request; a chart arrives with what was checked and nothing else.

        Raises:
            ServerError: a chart cannot be had.
            InvalidResponse: a chart is not of the form that it must have.
            OSError: as `MarketSession.request` says.
        """
        response = super().request(method, url, *arguments, **options)
        # instead of a chart Yahoo may ask for consent, which yfinance gives
        asks_consent = str(urlsplit(response.url).hostname).endswith(_CONSENT)
        if _is_chart(response.url) or (_is_chart(url) and not asks_consent):
            self._take(response)
        return response

    def _asked_to_wait(self, url: str, response: Any) -> float | None:
        """Heed waits for charts alone: they can be had without a cookie and a crumb."""
        return super()._asked_to_wait(url, response) if _is_chart(url) else None

    def _take(self, response: Any) -> None:
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
