"""Run one service like Compose: health checks, restarts, an orderly stop."""

import contextlib
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stack.compose import HealthCheck, Service
from tests.stack.processes import end_all

# Identifies the processes of a service, like its container: they are killed when its main process ends.
CONTAINER = "FORECASTER_CONTAINER"
# Like Docker: the pause doubles up to a minute, and is reset once a process has run for a while.
MIN_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 60
STABLE_SECONDS = 10


@dataclass(frozen=True)
class ProcessSpec:
    """How a service's process and its health check are started."""

    command: tuple[str, ...]
    check: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: Path
    account: str | None
    log: Path

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `subprocess` for it."""
        owner = {"user": self.account, "group": self.account} if self.account else {}
        return {"env": dict(self.environment), "cwd": self.working_dir, "stdin": subprocess.DEVNULL, **owner}


class Supervisor:
    """Runs one service until it is stopped.

    Attributes:
        state: `waiting`, `running`, `healthy`, `unhealthy` or `ended`.
        exit_status: of the last process; None before it ended.
    """

    def __init__(self, service: Service, spec: ProcessSpec, changed: threading.Condition) -> None:
        """Supervise `service`; `changed` is notified of each change of state."""
        self.service = service
        self.spec = spec
        self.state = "waiting"
        self.exit_status: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._container = uuid.uuid4().hex
        self._changed = changed
        self._is_stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, name=service.name)

    def start(self) -> None:
        """Start the service, and restart it as its policy says until `stop`."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the service has ended and is not restarted."""
        return self.state == "ended" and not self._thread.is_alive()

    def meets(self, condition: str) -> bool:
        """Return whether the service meets a condition of `depends_on`."""
        if condition == "service_healthy":
            return self.state == "healthy"
        if condition == "service_completed_successfully":
            return self.state == "ended" and self.exit_status == 0
        return self.state != "waiting"

    def stop(self) -> None:
        """Send the stop signal, kill the process after its grace period, and kill its children."""
        self._is_stopping.set()
        with self._starting:
            process = self.process
        if process is not None and process.poll() is None:
            process.send_signal(signal.Signals[self.service.stop_signal])
            try:
                process.wait(self.service.grace_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def kill(self) -> None:
        """Kill all processes of the service now."""
        self._is_stopping.set()
        # A start in progress completes first; none follows.
        with self._starting:
            pass
        end_all(CONTAINER, self._container)

    def _supervise(self) -> None:
        pause = MIN_PAUSE_SECONDS
        while not self._is_stopping.is_set():
            begin = time.monotonic()
            with self._starting:
                if self._is_stopping.is_set():
                    return
                self.process = self._start()
            self._set_state("running")
            self.exit_status = self._watch(self.process, begin)
            end_all(CONTAINER, self._container)
            self._set_state("ended")
            if self.service.restart == "no" or (self.service.restart == "on-failure" and not self.exit_status):
                return
            pause = MIN_PAUSE_SECONDS if time.monotonic() - begin > STABLE_SECONDS else pause * 2
            self._is_stopping.wait(min(pause, MAX_PAUSE_SECONDS))

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.spec.log.open("ab") as log:
            arguments = self.spec.arguments()
            arguments["env"][CONTAINER] = self._container
            # A session of its own: Ctrl-C in a terminal reaches the stack only.
            return subprocess.Popen(self.spec.command, stdout=log, stderr=log, start_new_session=True, **arguments)

    def _watch(self, process: "subprocess.Popen[bytes]", begin: float) -> int:
        check, n_failures = self.service.check, 0
        while check is not None:
            has_started = self.state != "running" or time.monotonic() - begin > check.start_period
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(check.interval if has_started else check.start_interval)
            if self._passes(check):
                n_failures = 0
                self._set_state("healthy")
            elif has_started:
                n_failures += 1
                if n_failures >= check.retries:
                    self._set_state("unhealthy")
        return process.wait()

    def _passes(self, check: HealthCheck) -> bool:
        try:
            done = subprocess.run(
                self.spec.check, check=False, capture_output=True, timeout=check.timeout, **self.spec.arguments()
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _set_state(self, state: str) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()
