"""A pipeline in a process of its own, and the lock that tells whether it goes on.

The lock is the kernel's (`flock`) on a file that the child inherits: it is held as long as the child, or what it has
started, lives, also when the scheduler was killed; it needs no process ids, which are used again, and is never stale.
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

# secrets of the scheduler, which no pipeline needs
SECRETS = ("FORECASTER_WEBHOOK_URL", "FORECASTER_METRICS_TOKEN", "FORECASTER_METRICS_TOKEN_FILE")
OUTCOME_LENGTH = 2000
# from being told to end to being killed
GRACE_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_TAIL_BYTES = 65536


@contextmanager
def job_lock(folder: Path, job: str) -> Iterator[int | None]:
    """Hold the right to run a job on this machine, as a file that its process inherits; None where it runs.

    It is not unlocked at the end, which would be for the process too: the last who has the file open gives it back.
    """
    with (folder / f"{job}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Args:
        exit_code: negative: by that signal; None: it never started.
        outcome: the last line of what it said, of stdout if there is any.
        was_stopped: whether it was ended because the scheduler was told to, for a second time.
    """

    exit_code: int | None
    outcome: str
    was_stopped: bool = False


@dataclass
class Child:
    """A pipeline's process.

    Args:
        job: whose pipeline.
        folder: where its output goes, that of the last run of each job.
        database_url: the schedule's, which it uses too.
        has_terminal: whether its log lines go to this process' stderr instead.
    """

    job: JobConfig
    folder: Path
    database_url: str
    has_terminal: bool = False
    _told_at: float | None = field(default=None, init=False)

    def run(self, lock: int | None, is_hurried: Event, beat: Callable[[], None], beat_seconds: float) -> Ended:
        """Run it to its end.

        Args:
            lock: the file of its lock, which it inherits.
            is_hurried: set when it is to be ended.
            beat: called now and then while it runs.
            beat_seconds: how often.
        """
        begin = last = time.monotonic()
        try:
            process = self._start(lock)
        except OSError as error:
            return Ended(None, f"cannot be started ({error})")
        limit = self.job.timeout_minutes and self.job.timeout_minutes * 60
        was_late = False
        while True:
            try:
                process.wait(timeout=_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            was_late = was_late or bool(limit and now - begin > limit)
            if was_late or is_hurried.is_set():
                self._end(process, now)
            if now - last > beat_seconds:
                last = now
                beat()
        if was_late:
            return Ended(process.returncode, f"ended after timeout_minutes, {self.job.timeout_minutes:g}")
        if self._told_at is not None:
            return Ended(process.returncode, "ended with the scheduler", was_stopped=True)
        return Ended(process.returncode, self._said())

    def _start(self, lock: int | None) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        # files and no pipes, which would break with the scheduler
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            return subprocess.Popen(  # noqa: S603 - the command is made of the allow-listed pipelines
                [sys.executable, "-m", f"pipelines.{self.job.command[0]}", *self.job.command[1:]],
                env=environment | {"FORECASTER_DATABASE_URL": self.database_url},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=None if self.has_terminal else err,
                pass_fds=[] if lock is None else [lock],
                # signals to the scheduler's group are not for it
                start_new_session=True,
            )

    def _end(self, process: "subprocess.Popen[bytes]", now: float) -> None:
        if self._told_at is None:
            self._told_at = now
            os.killpg(process.pid, signal.SIGTERM)
        elif now - self._told_at > GRACE_SECONDS:
            os.killpg(process.pid, signal.SIGKILL)

    def _said(self) -> str:
        return shorten(_last_line(self._file("out")) or _last_line(self._file("err")))

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.job.name}.{kind}"


def shorten(text: str) -> str:
    """Return a text no longer than an outcome is kept."""
    return text if len(text) <= OUTCOME_LENGTH else f"{text[: OUTCOME_LENGTH - 1]}…"


def _last_line(file: Path) -> str:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        lines = opened.read().decode(errors="replace").replace("\r", "\n").splitlines()
    # Postgres takes no NUL
    return next((line.strip().replace("\0", "") for line in reversed(lines) if line.strip()), "")
