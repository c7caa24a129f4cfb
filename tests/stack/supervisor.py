"""Keeps one service running as Compose would: health, restarts, an end in order."""

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

from tests.stack.compose import Check, Service
from tests.stack.processes import end_all

# stands for the container: a process that has it ends with the first, whatever session it is in
CONTAINER = "FORECASTER_CONTAINER"
# as Docker has it: pauses double, up to a minute, until a process has lived for some time
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 60
LIVED_SECONDS = 10


@dataclass(frozen=True)
class Launch:
    """What a process is started with."""

    command: tuple[str, ...]
    check: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: Path
    account: str | None
    log: Path

    def arguments(self) -> dict[str, Any]:
        """Return how `subprocess` is told so."""
        owner = {"user": self.account, "group": self.account} if self.account else {}
        return {"env": dict(self.environment), "cwd": self.working_dir, "stdin": subprocess.DEVNULL, **owner}


class Supervisor:
    """One service: `state` is `waiting`, `running`, `healthy`, `unhealthy` or `ended`."""

    def __init__(self, service: Service, launch: Launch, changed: threading.Condition) -> None:
        """Keep `service`; `changed` is told of each change of state."""
        self.service = service
        self.launch = launch
        self.state = "waiting"
        self.exit_status: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._container = uuid.uuid4().hex
        self._changed = changed
        self._is_stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=service.name)

    def start(self) -> None:
        """Start, and keep running until `stop`."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.state == "ended" and not self._thread.is_alive()

    def is_met(self, condition: str) -> bool:
        """Say whether a service that needs this one, on a condition of `depends_on`, may start."""
        if condition == "service_healthy":
            return self.state == "healthy"
        if condition == "service_completed_successfully":
            return self.state == "ended" and self.exit_status == 0
        return self.state != "waiting"

    def stop(self) -> None:
        """Ask the process to end, make it end when its time is over, and take its children with it."""
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
        """End it now, in no order."""
        self._is_stopping.set()
        # one that is being started is there, or will not be
        with self._starting:
            pass
        end_all(CONTAINER, self._container)

    def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._is_stopping.is_set():
            begin = time.monotonic()
            with self._starting:
                if self._is_stopping.is_set():
                    return
                self.process = self._start()
            self._tell("running")
            self.exit_status = self._watch(self.process, begin)
            end_all(CONTAINER, self._container)
            self._tell("ended")
            if self.service.restart == "no" or (self.service.restart == "on-failure" and not self.exit_status):
                return
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - begin > LIVED_SECONDS else pause * 2
            self._is_stopping.wait(min(pause, LONGEST_PAUSE_SECONDS))

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.launch.log.open("ab") as log:
            arguments = self.launch.arguments()
            arguments["env"][CONTAINER] = self._container
            # Ctrl-C in a terminal is for the stack alone
            return subprocess.Popen(self.launch.command, stdout=log, stderr=log, start_new_session=True, **arguments)

    def _watch(self, process: "subprocess.Popen[bytes]", begin: float) -> int:
        check, n_failures = self.service.check, 0
        while check is not None:
            has_started = self.state != "running" or time.monotonic() - begin > check.start_period
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(check.interval if has_started else check.start_interval)
            if self._passes(check):
                n_failures = 0
                self._tell("healthy")
            elif has_started:
                n_failures += 1
                if n_failures >= check.retries:
                    self._tell("unhealthy")
        return process.wait()

    def _passes(self, check: Check) -> bool:
        try:
            done = subprocess.run(
                self.launch.check, check=False, capture_output=True, timeout=check.timeout, **self.launch.arguments()
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _tell(self, state: str) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()
