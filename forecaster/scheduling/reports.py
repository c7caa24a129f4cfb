"""Report a run that failed for good: a log line, a metric, and a message to a webhook."""

import logging
import os
import socket
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from forecaster.domain.errors import ConfigError
from forecaster.domain.instants import from_microseconds
from forecaster.scheduling.metrics import Metrics

WEBHOOK = "FORECASTER_WEBHOOK_URL"
_MAX_ATTEMPTS = 2
_log = logging.getLogger("forecaster.schedule")


@dataclass(frozen=True)
class Failure:
    """A run that failed and is not retried; `due_at` is in microseconds since 1970."""

    job: str
    pipeline: str
    due_at: int
    attempt: int
    exit_code: int | None
    reason: str


class FailureReporter:
    """Reports failures to the log, the metrics and a webhook.

    Args:
        metrics: count the failures.
        seconds: the longest that a message to the webhook may take.

    Raises:
        ConfigError: the webhook's URL is not an HTTP address; the message leaves the URL out, because it is a secret.
    """

    def __init__(self, metrics: Metrics, seconds: float = 10) -> None:
        self._url = os.environ.get(WEBHOOK, "")
        if self._url and (urlsplit(self._url).scheme not in ("http", "https") or not urlsplit(self._url).hostname):
            raise ConfigError(f"{WEBHOOK}: must be an address such as https://host/path")
        self._metrics = metrics
        self._seconds = seconds

    def report(self, failure: Failure) -> None:
        """Report a failure; a problem with the webhook is only logged and counted."""
        due = from_microseconds(failure.due_at).isoformat(timespec="seconds")
        fields = {
            "job": failure.job,
            "due": due,
            "attempt": failure.attempt,
            "exit_code": failure.exit_code,
            "outcome": failure.reason,
        }
        text = f"job '{failure.job}' (pipelines.{failure.pipeline}), due {due}, failed for good: {failure.reason}"
        _log.error("%s", text, extra=fields)
        self._metrics.given_up.labels(failure.job).inc()
        if self._url:
            self._send({**fields, "pipeline": failure.pipeline, "host": socket.gethostname(), "text": text})

    def _send(self, message: dict[str, object]) -> None:
        problem = ""
        for _ in range(_MAX_ATTEMPTS):
            problem = self._post(message)
            if not problem:
                return
        self._metrics.webhook_failures.inc()
        job = message["job"]
        _log.error("job '%s': its failure could not be sent to the webhook (%s)", job, problem, extra={"job": job})

    def _post(self, message: dict[str, object]) -> str:
        """Send a message once; return what went wrong, without the address, or an empty text."""
        problem = [f"no answer in {self._seconds:g} s"]
        # httpx limits each wait but not their sum
        thread = threading.Thread(target=lambda: problem.__setitem__(0, self._exchange(message)), daemon=True)
        thread.start()
        thread.join(self._seconds)
        return problem[0]

    def _exchange(self, message: dict[str, object]) -> str:
        import httpx2

        try:
            with httpx2.stream("POST", self._url, json=message, timeout=self._seconds) as response:
                return "" if response.is_success else f"status {response.status_code}"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return type(error).__name__
