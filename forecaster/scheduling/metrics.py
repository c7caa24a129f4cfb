"""The scheduler's Prometheus metrics, served on a port of their own: on loopback, or beyond it with a token."""

import hmac
import ipaddress
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from forecaster.domain.errors import ConfigError
from forecaster.scheduling.config import JobConfig, MetricsConfig
from forecaster.scheduling.runs import FAILED, LOST, MISSED, SUCCEEDED

TOKEN = "FORECASTER_METRICS_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE = f"{TOKEN}_FILE"
HEALTH = "/health/live"
_MIN_TOKEN_LENGTH = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_Start = Callable[..., Any]


class Metrics:
    """The metrics, in a registry of their own."""

    def __init__(self, jobs: Sequence[JobConfig]) -> None:
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "forecaster_schedule", "registry": self.registry}
        by_job: dict[str, Any] = common | {"labelnames": ["job"]}
        self.next_run = Gauge("next_run_timestamp_seconds", "When the job is due next.", **by_job)
        self.last_success = Gauge("last_success_timestamp_seconds", "When the job last succeeded.", **by_job)
        self.last_failure = Gauge("last_failure_timestamp_seconds", "When the job last failed or was lost.", **by_job)
        self.last_lost = Gauge(
            "last_lost_timestamp_seconds", "When a run of the job was last found to be lost.", **by_job
        )
        self.last_missed = Gauge(
            "last_missed_timestamp_seconds", "When a due time of the job was last found to be missed.", **by_job
        )
        self.seconds = Histogram("run_seconds", "Duration of a run.", buckets=_SECONDS, **by_job)
        self.runs = Counter("runs", "Attempts by outcome.", labelnames=["job", "outcome"], **common)
        self.given_up = Counter("given_up", "Runs that failed and are not retried.", **by_job)
        self.running = Gauge("running", "1 while the job runs.", **by_job)
        self.waiting = Gauge("retrainings_waiting", "Retraining requests that no run has claimed.", **common)
        self.database_errors = Counter("database_errors", "Database operations that failed.", **common)
        self.webhook_failures = Counter(
            "webhook_failures", "Failure reports that the webhook did not receive.", **common
        )
        self._jobs = {job.name for job in jobs}
        for job in jobs:
            # so that the counters start at 0: Prometheus sees no increase in a counter whose first value is 1
            for outcome in (SUCCEEDED, FAILED, LOST, MISSED):
                self.runs.labels(job.name, outcome)
            self.given_up.labels(job.name)
            self.running.labels(job.name)
            if job.when:
                self.next_run.labels(job.name).set_function(_next_run(job))

    def set_last_ends(self, last_ends: dict[tuple[str, str], int]) -> None:
        """Set the timestamps of each job's last ends.

        Args:
            last_ends: by job and state, in microseconds since 1970.
        """
        gauges = {
            self.last_success: (SUCCEEDED,),
            self.last_failure: (FAILED, LOST),
            self.last_lost: (LOST,),
            self.last_missed: (MISSED,),
        }
        for job, gauge in product(self._jobs, gauges):
            ends = [last_ends[job, state] for state in gauges[gauge] if (job, state) in last_ends]
            if ends:
                gauge.labels(job).set(max(ends) / 1e6)


@dataclass
class MetricsServer:
    """A running server of the metrics; `address` is its host and port."""

    address: tuple[str, int]
    server: WSGIServer = field(repr=False)

    def close(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()


def serve(config: MetricsConfig, registry: CollectorRegistry) -> MetricsServer:
    """Serve `/metrics`, and `/health/live` without the token, from threads.

    Raises:
        ConfigError: the address is beyond loopback and no token is set, or the port cannot be opened.
    """
    token = _token()
    if token is None and not _is_loopback(config.host):
        raise ConfigError(f"metrics.host: a token is required beyond loopback; name its file in {TOKEN_FILE}")
    try:
        server = make_server(
            config.host, config.port, _with_access_check(make_wsgi_app(registry), token), _Server, _Handler
        )
    except OSError as error:
        raise ConfigError(
            f"metrics: {config.host}:{config.port} cannot be opened ({error}); set another port"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return MetricsServer((config.host, server.server_port), server)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    # seconds, for a client that sends nothing
    timeout = 10

    def log_message(self, *line: Any) -> None:
        """Log nothing for a scrape."""


def _with_access_check(app: Any, token: str | None) -> Any:
    def answer(environment: dict[str, Any], start: _Start) -> Any:
        if environment.get("PATH_INFO") == HEALTH:
            start("200 OK", [("Content-Length", "0")])
            return []
        if token is not None:
            given = environment.get("HTTP_AUTHORIZATION", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                start("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Length", "0")])
                return []
        # a foreign web page could otherwise read the metrics by DNS rebinding
        elif urlsplit(f"//{environment.get('HTTP_HOST', '')}").hostname not in _LOOPBACK:
            start("400 Bad Request", [("Content-Length", "0")])
            return []
        return app(environment, start)

    return answer


def _token() -> str | None:
    # in a container, the entrypoint has set the first variable from the file of the second
    token, file = os.environ.get(TOKEN, "").strip(), os.environ.get(TOKEN_FILE)
    if not token and not file:
        return None
    if file and not token:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{TOKEN_FILE}: {file} cannot be read ({error})") from error
    if len(token) < _MIN_TOKEN_LENGTH:
        raise ConfigError(f"{TOKEN}, …_FILE: the token has {len(token)} characters; use at least {_MIN_TOKEN_LENGTH}")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _next_run(job: JobConfig) -> Callable[[], float]:
    def find() -> float:
        assert job.when is not None  # noqa: S101 - for mypy
        return job.when.after(datetime.now(UTC)).timestamp()

    return find
