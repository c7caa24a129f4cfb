"""Run a job if it is due: take its lock, ask the database, claim the run, and wait for its process."""

import logging
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from forecaster.domain.errors import ConfigError, DatabaseUnavailable, ScheduleError
from forecaster.domain.exits import SUCCESS
from forecaster.domain.instants import DAY, from_microseconds, now_microseconds
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.pipeline_process import PipelineProcess, ProcessResult, job_lock, shorten
from forecaster.scheduling.plan import Drop, Miss, Start, next_step, retry_at
from forecaster.scheduling.reports import Failure, FailureReporter
from forecaster.scheduling.runs import FAILED, LOST, MISSED, ONCE, SUCCEEDED, Run, Runs

_log = logging.getLogger("forecaster.schedule")


@dataclass
class Stop:
    """Stop signals: `requested` by the first, so that no new run starts; `forced` by the second."""

    requested: Event = field(default_factory=Event)
    forced: Event = field(default_factory=Event)


class Runner:
    """Runs jobs that are due. Its methods may be called from several threads.

    Args:
        config: the schedule.
        engine: the database, with its tables up to date.
        metrics: to update.
        reporter: reports failures.
        stop: the stop signals.

    Raises:
        ConfigError: the schedule's folder cannot be written.
    """

    def __init__(
        self, config: ScheduleConfig, engine: Engine, metrics: Metrics, reporter: FailureReporter, stop: Stop
    ) -> None:
        self._config, self._metrics, self._reporter, self._stop = config, metrics, reporter, stop
        self._url = engine.url.render_as_string(hide_password=False)
        self._runs = Runs(engine, _place(config.folder), config.lost_after_seconds)
        self._catch_up = timedelta(hours=config.catch_up_hours)
        self._is_database_down = False

    def run_if_due(self, job: JobConfig) -> None:
        """Run a job once if a due time, a retry or a request is waiting for it."""
        if self._stop.requested.is_set():
            return
        try:
            with job_lock(self._config.folder, job.name) as lock:
                run = None if lock is None else self._claim_next(job)
                self._note_database_up()
                if run:
                    self._execute(job, run, lock)
        except DatabaseUnavailable as error:
            self._note_database_down(error)

    def run_now(self, job: JobConfig) -> ProcessResult:
        """Run a job at once, whether or not it is due, and do not retry it.

        Raises:
            ScheduleError: the job is already running.
            DatabaseUnavailable: the database does not answer.
        """
        with job_lock(self._config.folder, job.name) as lock:
            if lock is not None:
                run = self._runs.claim(job.name, ONCE, now_microseconds()) if self._wait_until_free(job) else None
                if run:
                    return self._execute(job, run, lock, has_terminal=True)
        raise ScheduleError(f"job '{job.name}': it is already running; wait until it ends")

    def do_housekeeping(self) -> None:
        """Close retraining requests that no job serves, update the metrics, and delete old runs."""
        try:
            if self._config.follow_evidence:
                for model in self._runs.close_unserved_requests(list(self._config.retrained_by())):
                    _log.warning("a retraining of '%s' was requested, but no job of the schedule retrains it", model)
            self._metrics.waiting.set(self._runs.count_requests())
            self.update_metrics()
            self._runs.delete_before(now_microseconds() - int(self._config.keep_days * DAY))
        except DatabaseUnavailable as error:
            self._note_database_down(error)

    def update_metrics(self) -> None:
        """Set the metrics of when jobs last ended, including runs of other schedulers.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        self._metrics.set_last_ends(self._runs.last_ends())

    def _claim_next(self, job: JobConfig) -> Run | None:
        """Claim the run that is due, while holding the job's lock; return None if nothing is due."""
        while True:
            state = self._runs.read_state(job.name, job.model if self._config.follow_evidence else None)
            if state.open_run:
                if not self._settle(job, state.open_run):
                    return None
                continue
            step = next_step(job, state, now_microseconds(), self._catch_up)
            if isinstance(step, Start):
                return self._claim(job, step)
            if isinstance(step, Miss):
                self._record_missed(job, step.due_at)
            elif isinstance(step, Drop):
                reason = f"{step.run.outcome}; not retried within catch_up_hours"
                if self._runs.drop_retry(step.run, reason):
                    self._report_failure(job, step.run, reason)
            else:
                return None

    def _wait_until_free(self, job: JobConfig) -> bool:
        """Return whether no run of the job is open; if the open run seems lost, wait until that is certain."""
        while (run := self._runs.read_state(job.name, None).open_run) and not self._settle(job, run):
            if not self._runs.seems_lost(run) or self._stop.requested.is_set():
                return False
            # not a wait for the event: this is the main thread, in which the signal handler that sets it runs
            time.sleep(min(self._config.poll_seconds, self._runs.heartbeat_seconds))
        return True

    def _claim(self, job: JobConfig, step: Start) -> Run | None:
        run = self._runs.claim(job.name, **vars(step))
        if run:
            for replaced in step.replaces:
                if replaced.state == FAILED:
                    reason = f"{replaced.outcome}; not retried, because the next run is due"
                    self._report_failure(job, replaced, reason)
        return run

    def _settle(self, job: JobConfig, run: Run) -> bool:
        """Record an open run as lost if its process is gone; return False if the process may be running."""
        if not self._runs.is_lost(run):
            return False
        reason = "lost: its scheduler ended before it did"
        lost = self._runs.mark_lost(run, reason)
        if lost:
            self._metrics.runs.labels(job.name, LOST).inc()
            _log.warning("job '%s': a run was lost", job.name, extra=_fields(run))
            if not lost.is_retried and run.cause != ONCE:
                self._report_failure(job, run, f"{reason}, for the second time")
        return True

    def _record_missed(self, job: JobConfig, due_at: int) -> None:
        reason = f"missed by more than {self._config.catch_up_hours:g} hours"
        if self._runs.record_missed(job.name, due_at, reason):
            self._metrics.runs.labels(job.name, MISSED).inc()
            due = from_microseconds(due_at).isoformat(timespec="seconds")
            _log.warning("job '%s', due %s: %s", job.name, due, reason)

    def _execute(self, job: JobConfig, run: Run, lock: int | None, has_terminal: bool = False) -> ProcessResult:
        _log.info("job '%s' started", job.name, extra=_fields(run))
        running, begin = self._metrics.running.labels(job.name), time.monotonic()
        running.set(1)
        try:
            process = PipelineProcess(job, self._config.folder, self._url, has_terminal)
            result = process.run(
                lock, self._stop.forced, lambda: self._send_heartbeat(run), self._runs.heartbeat_seconds
            )
        finally:
            running.set(0)
        seconds = time.monotonic() - begin
        self._metrics.seconds.labels(job.name).observe(seconds)
        self._record_end(job, run, result, seconds)
        return result

    def _record_end(self, job: JobConfig, run: Run, result: ProcessResult, seconds: float) -> None:
        """Record how a run ended, and retry while the database is down; until then the lock marks it as running."""
        while True:
            try:
                state, again_at = self._judge(job, run, result)
                was_open = self._runs.finish(run, state, result.exit_code, result.outcome or state, again_at)
                break
            except DatabaseUnavailable as error:
                self._note_database_down(error)
                if run.cause == ONCE or self._stop.forced.wait(self._config.poll_seconds):
                    raise
        self._note_database_up()
        self._metrics.runs.labels(job.name, state).inc()
        fields = _fields(run) | {"exit_code": result.exit_code, "seconds": round(seconds, 3), "outcome": result.outcome}
        level = logging.INFO if state == SUCCEEDED else logging.WARNING
        _log.log(level, "job '%s' %s: %s", job.name, state, result.outcome, extra=fields)
        if not was_open:
            _log.warning("job '%s': another scheduler had recorded this run as lost", job.name, extra=_fields(run))
        elif state == FAILED and again_at is None and run.cause != ONCE:
            self._report_failure(job, run, result.outcome, result.exit_code)

    def _judge(self, job: JobConfig, run: Run, result: ProcessResult) -> tuple[str, int | None]:
        """Return the state of an ended run, and when to retry it."""
        if result.exit_code == SUCCESS:
            return SUCCEEDED, None
        if run.cause == ONCE:
            return FAILED, None
        if result.was_stopped:
            # the next scheduler retries it, as it would after a kill
            return LOST, now_microseconds()
        failures = self._runs.count_failures(run) + 1
        return FAILED, retry_at(job, self._config.retry_for(job), result.exit_code, failures, now_microseconds())

    def _report_failure(self, job: JobConfig, run: Run, reason: str, exit_code: int | None = None) -> None:
        code = run.exit_code if exit_code is None else exit_code
        self._reporter.report(Failure(job.name, job.run, run.due_at, run.attempt, code, shorten(reason)))

    def _send_heartbeat(self, run: Run) -> None:
        try:
            self._runs.send_heartbeat(run)
        except DatabaseUnavailable as error:
            self._note_database_down(error)

    def _note_database_down(self, error: DatabaseUnavailable) -> None:
        self._metrics.database_errors.inc()
        if not self._is_database_down:
            _log.error("%s; retrying until it does", error)
        self._is_database_down = True

    def _note_database_up(self) -> None:
        if self._is_database_down:
            _log.info("the database answers again")
        self._is_database_down = False


def _place(folder: Path) -> str:
    """Return an id that schedulers share if they see each other's locks: the host (or container) and the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise ConfigError(f"folder: {folder} cannot be created ({error}); set another folder") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"folder: {folder} cannot be written; set another folder, or change its permissions")
    return f"{socket.gethostname()} {found.st_dev}:{found.st_ino}"


def _fields(run: Run) -> dict[str, object]:
    due = from_microseconds(run.due_at).isoformat(timespec="seconds")
    return {"job": run.job, "run_id": run.run_id, "due": due, "attempt": run.attempt}
