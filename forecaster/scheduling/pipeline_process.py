"""A pipeline in a process of its own, and the lock that shows whether the process is still running.

The lock is a `flock` on a file that the process inherits. The kernel holds it as long as the process or one of its
children lives, even if the scheduler is killed. Unlike a process id, it is never reused or left behind.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from forecaster.scheduling.config import JobConfig

# the scheduler's secrets, which no pipeline needs
SECRETS = ("FORECASTER_WEBHOOK_URL", "FORECASTER_METRICS_TOKEN", "FORECASTER_METRICS_TOKEN_FILE")
OUTCOME_LENGTH = 2000
# between SIGTERM and SIGKILL
GRACE_SECONDS = 10.0
_WAIT_SECONDS = 0.1
_TAIL_BYTES = 65536


@contextmanager
def job_lock(folder: Path, job: str) -> Iterator[int | None]:
    """Lock a job on this machine; yield the descriptor of the lock's file, or None if the job is running.

    A process that inherits the descriptor keeps the lock. The lock is released when its last holder closes the file;
    unlocking it here would release it for that process, too.
    """
    with (folder / f"{job}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


@dataclass(frozen=True)
class ProcessResult:
    """How a pipeline's process ended.

    Args:
        exit_code: minus the signal's number if a signal ended it; None if it could not be started.
        outcome: the last line of its stdout, or of its stderr if stdout is empty; or why it was terminated.
        was_stopped: whether it was terminated because the scheduler received a second stop signal.
    """

    exit_code: int | None
    outcome: str
    was_stopped: bool = False


@dataclass
class PipelineProcess:
    """The process of a job's pipeline.

    Args:
        job: the job.
        folder: for the output of each job's last run, `JOB.out` and `JOB.err`.
        database_url: the schedule's database, which the pipeline uses, too.
        has_terminal: whether the pipeline logs to this process' stderr instead of a file.
    """

    job: JobConfig
    folder: Path
    database_url: str
    has_terminal: bool = False
    _terminated_at: float | None = field(default=None, init=False)

    def run(
        self, lock: int | None, force_stop: Event, heartbeat: Callable[[], None], heartbeat_seconds: float
    ) -> ProcessResult:
        """Run the pipeline to its end.

        Args:
            lock: the descriptor of the job's lock, which the process inherits.
            force_stop: the process is terminated when it is set.
            heartbeat: called at intervals while the process runs.
            heartbeat_seconds: the interval.
        """
        begin = last_heartbeat = time.monotonic()
        try:
            process = self._start(lock)
        except OSError as error:
            return ProcessResult(None, f"the process cannot be started ({error})")
        limit = self.job.timeout_minutes and self.job.timeout_minutes * 60
        is_timed_out = False
        while True:
            try:
                process.wait(timeout=_WAIT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            is_timed_out = is_timed_out or bool(limit and now - begin > limit)
            if is_timed_out or force_stop.is_set():
                self._terminate(process, now)
            if now - last_heartbeat > heartbeat_seconds:
                last_heartbeat = now
                heartbeat()
        if is_timed_out:
            return ProcessResult(process.returncode, f"terminated after timeout_minutes ({self.job.timeout_minutes:g})")
        if self._terminated_at is not None:
            return ProcessResult(process.returncode, "terminated with the scheduler", was_stopped=True)
        return ProcessResult(process.returncode, self._last_output())

    def _start(self, lock: int | None) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        # files and not pipes, which would break if the scheduler were killed
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            return subprocess.Popen(  # noqa: S603 - the pipeline's name is in an allow-list
                [sys.executable, "-m", f"pipelines.{self.job.command[0]}", *self.job.command[1:]],
                env=environment | {"FORECASTER_DATABASE_URL": self.database_url},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=None if self.has_terminal else err,
                pass_fds=[] if lock is None else [lock],
                # so that Ctrl-C in the scheduler's terminal does not reach it
                start_new_session=True,
            )

    def _terminate(self, process: "subprocess.Popen[bytes]", now: float) -> None:
        if self._terminated_at is None:
            self._terminated_at = now
            os.killpg(process.pid, signal.SIGTERM)
        elif now - self._terminated_at > GRACE_SECONDS:
            os.killpg(process.pid, signal.SIGKILL)

    def _last_output(self) -> str:
        return shorten(_last_line(self._file("out")) or _last_line(self._file("err")))

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.job.name}.{suffix}"


def shorten(text: str) -> str:
    """Return a text cut to at most `OUTCOME_LENGTH` characters."""
    return text if len(text) <= OUTCOME_LENGTH else f"{text[: OUTCOME_LENGTH - 1]}…"


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    # Postgres stores no NUL
    return next((line.strip().replace("\0", "") for line in reversed(lines) if line.strip()), "")
