"""Fixtures of the fault tests: a service in its own process, and load on it. `make soak` runs them for longer."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, TrainedModels
from tests.service.conftest import forecast_request

IS_LONG = os.environ.get("FORECASTER_SOAK") == "1"


def count(short: int, long: int) -> int:
    """Return the number of repetitions: `short` in the tests, `long` in a soak."""
    return long if IS_LONG else short


@dataclass
class RunningService:
    """A service in its own process."""

    port: int
    process: "subprocess.Popen[bytes]"

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON body of the response.

        Raises:
            OSError: there is no response.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def forecast(self, **changes: Any) -> tuple[int, dict[str, Any]]:
        return self.request("POST", "/v1/forecasts", forecast_request(**changes))

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.request("GET", "/health/ready")[0] == 200:
                    return
            except OSError:
                assert self.process.poll() is None, "the service exited"
            time.sleep(0.02)
        raise AssertionError("the service did not become ready")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(timeout=60)


@contextmanager
def running(cache: Path, database_url: str, **settings: Any) -> Iterator[RunningService]:
    """Run a service; yield it when it is ready, and kill it if it still runs at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "PORT": port, "TRACKING_URI": "", "CACHE_DIR": cache, "DATABASE_URL": database_url, "LOG_LEVEL": "warning",
        "DRAIN_SECONDS": 0, "KEYS_REFRESH_SECONDS": 0.2, **settings,
    }  # fmt: skip
    environment = {f"FORECASTER_{name}": str(value) for name, value in variables.items()}
    process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env={**os.environ, **environment})
    try:
        service = RunningService(port, process)
        service.wait_until_ready()
        yield service
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@dataclass
class Load:
    """Threads that request forecasts until they are stopped, and record the answers."""

    service: RunningService
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _is_stopped: threading.Event = field(default_factory=threading.Event)

    def _work(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=30)
        body = json.dumps(forecast_request())
        while not self._is_stopped.is_set():
            try:
                connection.request("POST", "/v1/forecasts", body)
                answer = connection.getresponse()
                self.answers.append((answer.status, json.loads(answer.read())))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                connection.close()
                time.sleep(0.01)
        connection.close()

    @contextmanager
    def running(self, n_threads: int = 4) -> Iterator["Load"]:
        threads = [threading.Thread(target=self._work) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._is_stopped.set()
            for thread in threads:
                thread.join()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/service.db"


@pytest.fixture
def service(models: TrainedModels, database_url: str) -> Iterator[RunningService]:
    with running(models.cache, database_url) as service:
        yield service
