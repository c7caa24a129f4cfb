"""What Prometheus is told of the schedule, on a port of its own: loopback, or beyond it with a token."""

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

TOKEN = "FORECASTER_METRICS_TOKEN"  # noqa: S105 - the variables that hold it, or name its file
TOKEN_FILE = f"{TOKEN}_FILE"
HEALTH = "/health/live"
_LEAST_TOKEN = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_Start = Callable[..., Any]


class Metrics:
    """The instruments, in a registry of their own."""

    def __init__(self, jobs: Sequence[JobConfig]) -> None:
        self.registry = CollectorRegistry()
        given: dict[str, Any] = {"namespace": "forecaster_schedule", "registry": self.registry}
        each: dict[str, Any] = given | {"labelnames": ["job"]}
        self.next_run = Gauge("next_run_timestamp_seconds", "When it is due next.", **each)
        self.last_success = Gauge("last_success_timestamp_seconds", "When it last succeeded.", **each)
        self.last_failure = Gauge("last_failure_timestamp_seconds", "When it last failed or was lost.", **each)
        self.last_lost = Gauge("last_lost_timestamp_seconds", "When it was last found to be lost.", **each)
        self.last_missed = Gauge("last_missed_timestamp_seconds", "When it was last found to be missed.", **each)
        self.seconds = Histogram("run_seconds", "From start to end.", buckets=_SECONDS, **each)
        self.runs = Counter("runs", "Attempts, by what came of them.", labelnames=["job", "outcome"], **given)
        self.given_up = Counter("given_up", "Runs that failed and are not tried again.", **each)
        self.running = Gauge("running", "1 while it runs.", **each)
        self.waiting = Gauge("retrainings_waiting", "Retrainings asked for that nobody has taken.", **given)
        self.database_errors = Counter("database_errors", "Looks at the database that failed.", **given)
        self.webhook_failures = Counter("webhook_failures", "Reports that could not be sent.", **given)
        self._jobs = {job.name for job in jobs}
        for job in jobs:
            # a counter that begins with its first failure is no rise to an alert
            for outcome in (SUCCEEDED, FAILED, LOST, MISSED):
                self.runs.labels(job.name, outcome)
            self.given_up.labels(job.name)
            self.running.labels(job.name)
            if job.when:
                self.next_run.labels(job.name).set_function(_next_of(job))

    def tell_latest(self, latest: dict[tuple[str, str], int]) -> None:
        """Set when each job last ended in each state, in microseconds since 1970, as the database has it."""
        gauges = {
            self.last_success: (SUCCEEDED,),
            self.last_failure: (FAILED, LOST),
            self.last_lost: (LOST,),
            self.last_missed: (MISSED,),
        }
        for job, gauge in product(self._jobs, gauges):
            found = [latest[job, state] for state in gauges[gauge] if (job, state) in latest]
            if found:
                gauge.labels(job).set(max(found) / 1e6)


@dataclass
class Served:
    """The metrics on a port.

    Args:
        address: host and port.
        server: to be closed.
    """

    address: tuple[str, int]
    server: WSGIServer = field(repr=False)

    def close(self) -> None:
        """Listen no longer."""
        self.server.shutdown()
        self.server.server_close()


def serve(config: MetricsConfig, registry: CollectorRegistry) -> Served:
    """Answer `/metrics` in threads, and `/health/live`, which tells nothing but that it lives, without the token.

    Raises:
        ConfigError: the address is beyond loopback and there is no token, or it cannot be taken.
    """
    token = _token()
    if token is None and not _is_loopback(config.host):
        raise ConfigError(f"metrics.host: beyond loopback a token is needed; name its file in {TOKEN_FILE}")
    try:
        server = make_server(config.host, config.port, _guarded(make_wsgi_app(registry), token), _Server, _Handler)
    except OSError as error:
        raise ConfigError(
            f"metrics: {config.host}:{config.port} cannot be taken ({error}); set another port"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return Served((config.host, server.server_port), server)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    # of a client that sends nothing
    timeout = 10

    def log_message(self, *line: Any) -> None:
        """Write no line for each scrape."""


def _guarded(app: Any, token: str | None) -> Any:
    def answer(environment: dict[str, Any], start: _Start) -> Any:
        if environment.get("PATH_INFO") == HEALTH:
            start("200 OK", [("Content-Length", "0")])
            return []
        if token is not None:
            given = environment.get("HTTP_AUTHORIZATION", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                start("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Length", "0")])
                return []
        # a page elsewhere could otherwise read it by a name of its own (DNS rebinding)
        elif urlsplit(f"//{environment.get('HTTP_HOST', '')}").hostname not in _LOOPBACK:
            start("400 Bad Request", [("Content-Length", "0")])
            return []
        return app(environment, start)

    return answer


def _token() -> str | None:
    # in a container the entrypoint has made the one of the other
    token, file = os.environ.get(TOKEN, "").strip(), os.environ.get(TOKEN_FILE)
    if not token and not file:
        return None
    if file and not token:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{TOKEN_FILE}: {file} cannot be read ({error})") from error
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(f"{TOKEN}, …_FILE: {len(token)} characters; write at least {_LEAST_TOKEN}")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _next_of(job: JobConfig) -> Callable[[], float]:
    def find() -> float:
        assert job.when is not None  # noqa: S101 - for the type checker
        return job.when.after(datetime.now(UTC)).timestamp()

    return find
