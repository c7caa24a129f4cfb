"""Runs a job if anything is owed: takes its lock, asks the database, claims the run, waits for its process."""

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
from forecaster.domain.instants import DAY, as_moment, now_at
from forecaster.scheduling.child import Child, Ended, job_lock, shorten
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.plan import Drop, Miss, Start, again_at, next_step
from forecaster.scheduling.reports import Failure, Reports
from forecaster.scheduling.runs import FAILED, LOST, MISSED, ONCE, SUCCEEDED, Run, Runs

_log = logging.getLogger("forecaster.schedule")


@dataclass
class Stop:
    """What signals say: `asked` by the first, so that nothing new begins; `hurried` by the second."""

    asked: Event = field(default_factory=Event)
    hurried: Event = field(default_factory=Event)


class Runner:
    """Does what is owed, for as many threads as call it.

    Args:
        config: the schedule.
        engine: its database, the tables up to date.
        metrics: which are told.
        reports: where failures go.
        stop: what signals say.

    Raises:
        ConfigError: the schedule's folder cannot be written.
    """

    def __init__(self, config: ScheduleConfig, engine: Engine, metrics: Metrics, reports: Reports, stop: Stop) -> None:
        self._config, self._metrics, self._reports, self._stop = config, metrics, reports, stop
        self._url = engine.url.render_as_string(hide_password=False)
        self._runs = Runs(engine, _place(config.folder), config.lost_after_seconds)
        self._catch_up = timedelta(hours=config.catch_up_hours)
        self._is_away = False

    def look(self, job: JobConfig) -> None:
        """Run a job once if that is owed."""
        if self._stop.asked.is_set():
            return
        try:
            with job_lock(self._config.folder, job.name) as lock:
                run = None if lock is None else self._take(job)
                self._say_back()
                if run:
                    self._carry_out(job, run, lock)
        except DatabaseUnavailable as error:
            self._say_away(error)

    def once(self, job: JobConfig) -> Ended:
        """Run a job now, whatever is owed, and do not try it again.

        Raises:
            ScheduleError: it runs already.
            DatabaseUnavailable: the database does not answer.
        """
        with job_lock(self._config.folder, job.name) as lock:
            if lock is not None:
                run = self._runs.claim(job.name, ONCE, now_at()) if self._is_free(job) else None
                if run:
                    return self._carry_out(job, run, lock, has_terminal=True)
        raise ScheduleError(f"job '{job.name}': it runs already; wait for its end")

    def do_housekeeping(self) -> None:
        """Answer retrainings that no job is for, count those that wait, tell what was, forget old runs."""
        try:
            if self._config.follow_evidence:
                for model in self._runs.end_strange(list(self._config.retrained_by())):
                    _log.warning("a retraining of '%s' was asked for, and no job of the schedule does it", model)
            self._metrics.waiting.set(self._runs.count_waiting())
            self.tell_latest()
            self._runs.forget_before(now_at() - int(self._config.keep_days * DAY))
        except DatabaseUnavailable as error:
            self._say_away(error)

    def tell_latest(self) -> None:
        """Tell the metrics when jobs last ended how, also before this process; raises DatabaseUnavailable."""
        self._metrics.tell_latest(self._runs.latest())

    def _take(self, job: JobConfig) -> Run | None:
        """Return the run that is owed and now this scheduler's; the job's lock is held."""
        while True:
            known = self._runs.know(job.name, job.model if self._config.follow_evidence else None)
            if known.open:
                if not self._settle(job, known.open):
                    return None
                continue
            step = next_step(job, known, now_at(), self._catch_up)
            if isinstance(step, Start):
                return self._claim(job, step)
            if isinstance(step, Miss):
                self._miss(job, step.due_at)
            elif isinstance(step, Drop):
                reason = f"{step.run.outcome}; not tried again within catch_up_hours"
                if self._runs.drop(step.run, reason):
                    self._give_up(job, step.run, reason)
            else:
                return None

    def _is_free(self, job: JobConfig) -> bool:
        """Say whether no run is open; one that seems to be lost is watched until that is known."""
        while (found := self._runs.know(job.name, None).open) and not self._settle(job, found):
            if not self._runs.seems_silent(found) or self._stop.asked.is_set():
                return False
            # no wait for the event: a signal's handler, which sets it, would be in this thread too
            time.sleep(min(self._config.poll_seconds, self._runs.beat_seconds))
        return True

    def _claim(self, job: JobConfig, step: Start) -> Run | None:
        run = self._runs.claim(job.name, **vars(step))
        if run:
            for dropped in step.drops:
                if dropped.state == FAILED:
                    self._give_up(job, dropped, f"{dropped.outcome}; not tried again, for the next one is due")
        return run

    def _settle(self, job: JobConfig, run: Run) -> bool:
        """Record an open run as lost if nobody carries on with it; False if somebody may."""
        if not self._runs.is_lost(run):
            return False
        reason = "lost: its scheduler ended before it did"
        lost = self._runs.lose(run, reason)
        if lost:
            self._metrics.runs.labels(job.name, LOST).inc()
            _log.warning("job '%s': a run was lost", job.name, extra=_fields(run))
            if not lost.is_run_again and run.cause != ONCE:
                self._give_up(job, run, f"{reason}, for the second time")
        return True

    def _miss(self, job: JobConfig, due_at: int) -> None:
        reason = f"missed by more than {self._config.catch_up_hours:g} hours"
        if self._runs.miss(job.name, due_at, reason):
            self._metrics.runs.labels(job.name, MISSED).inc()
            _log.warning("job '%s', due %s: %s", job.name, as_moment(due_at).isoformat(timespec="seconds"), reason)

    def _carry_out(self, job: JobConfig, run: Run, lock: int | None, has_terminal: bool = False) -> Ended:
        _log.info("job '%s' begins", job.name, extra=_fields(run))
        running, begin = self._metrics.running.labels(job.name), time.monotonic()
        running.set(1)
        try:
            child = Child(job, self._config.folder, self._url, has_terminal)
            ended = child.run(lock, self._stop.hurried, lambda: self._beat(run), self._runs.beat_seconds)
        finally:
            running.set(0)
        seconds = time.monotonic() - begin
        self._metrics.seconds.labels(job.name).observe(seconds)
        self._record(job, run, ended, seconds)
        return ended

    def _record(self, job: JobConfig, run: Run, ended: Ended, seconds: float) -> None:
        """Write how a run ended, however long the database is away: until then its lock says that it goes on."""
        while True:
            try:
                state, again = self._judge(job, run, ended)
                is_mine = self._runs.end(run, state, ended.exit_code, ended.outcome or state, again)
                break
            except DatabaseUnavailable as error:
                self._say_away(error)
                if run.cause == ONCE or self._stop.hurried.wait(self._config.poll_seconds):
                    raise
        self._say_back()
        self._metrics.runs.labels(job.name, state).inc()
        fields = _fields(run) | {"exit_code": ended.exit_code, "seconds": round(seconds, 3), "outcome": ended.outcome}
        level = logging.INFO if state == SUCCEEDED else logging.WARNING
        _log.log(level, "job '%s' %s: %s", job.name, state, ended.outcome, extra=fields)
        if not is_mine:
            _log.warning("job '%s': this run had been taken to be lost", job.name, extra=_fields(run))
        elif state == FAILED and again is None and run.cause != ONCE:
            self._give_up(job, run, ended.outcome, ended.exit_code)

    def _judge(self, job: JobConfig, run: Run, ended: Ended) -> tuple[str, int | None]:
        """Return the state of a run that has ended, and when it is tried again."""
        if ended.exit_code == SUCCESS:
            return SUCCEEDED, None
        if run.cause == ONCE:
            return FAILED, None
        if ended.was_stopped:
            # as if the scheduler had been killed
            return LOST, now_at()
        failures = self._runs.count_failures(run) + 1
        return FAILED, again_at(job, self._config.retry_of(job), ended.exit_code, failures, now_at())

    def _give_up(self, job: JobConfig, run: Run, reason: str, exit_code: int | None = None) -> None:
        code = run.exit_code if exit_code is None else exit_code
        self._reports.give_up(Failure(job.name, job.run, run.due_at, run.attempt, code, shorten(reason)))

    def _beat(self, run: Run) -> None:
        try:
            self._runs.keep_alive(run)
        except DatabaseUnavailable as error:
            self._say_away(error)

    def _say_away(self, error: DatabaseUnavailable) -> None:
        self._metrics.database_errors.inc()
        if not self._is_away:
            _log.error("%s; asked again until it does", error)
        self._is_away = True

    def _say_back(self) -> None:
        if self._is_away:
            _log.info("the database answers again")
        self._is_away = False


def _place(folder: Path) -> str:
    """Return what tells places apart whose locks do not see each other: the machine, or container, and the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise ConfigError(f"folder: {folder} cannot be made ({error}); set another") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"folder: {folder} cannot be written; set another, or its permissions")
    return f"{socket.gethostname()} {found.st_dev}:{found.st_ino}"


def _fields(run: Run) -> dict[str, object]:
    due = as_moment(run.due_at).isoformat(timespec="seconds")
    return {"job": run.job, "run_id": run.run_id, "due": due, "attempt": run.attempt}
