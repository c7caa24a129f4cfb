"""The scheduler's process: wakes for each job when it is due, and every few seconds; stops in order."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import Engine

from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics, serve
from forecaster.scheduling.reports import Reports
from forecaster.scheduling.runner import Runner, Stop

_log = logging.getLogger("schedule")


class Wake(BaseTrigger):  # type: ignore[misc]
    """When a job is due, and every few seconds: for retries, what is asked for, and what was lost or missed."""

    def __init__(self, job: JobConfig, poll_seconds: float) -> None:
        self._job, self._poll = job, timedelta(seconds=poll_seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return when to look next; what is due by then is in the database, so nothing has to be remembered here."""
        poll = now + self._poll
        return min(self._job.when.after(now), poll) if self._job.when else poll


def keep_schedule(config: ScheduleConfig, engine: Engine) -> bool:
    """Run what is due until a signal says stop, then wait for what runs; returns False if that was broken off.

    Args:
        config: the jobs.
        engine: the database, its tables up to date.

    Raises:
        ConfigError: the folder, the metrics' address or the webhook's URL cannot be used.
        CalendarError: an exchange's calendar has come to its end.
        DatabaseUnavailable: the database does not answer at the start; later it is waited for.
    """
    metrics = Metrics(config.jobs)
    with stopping_on_signals() as stop:
        runner = Runner(config, engine, metrics, Reports(metrics), stop)
        runner.take_over()
        served = serve(config.metrics, metrics.registry) if config.metrics else None
        if served:
            _log.info("metrics at http://%s:%s/metrics", *served.address)
        try:
            _run(_scheduler(config, runner), stop)
        finally:
            if served:
                served.close()
        return not stop.hurried.is_set()


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Let SIGTERM and SIGINT say stop: the first asks, the second hurries."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        (stop.hurried if stop.asked.is_set() else stop.asked).set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _scheduler(config: ScheduleConfig, runner: Runner) -> Any:
    # queued behind others or not, a job finds what it owes when its turn comes
    given = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    executors = {"default": ThreadPoolExecutor(config.at_once), "house": ThreadPoolExecutor(1)}
    scheduler = BlockingScheduler(timezone=UTC, executors=executors, job_defaults=given)
    now = datetime.now(UTC)
    for job in config.jobs:
        trigger = Wake(job, config.poll_seconds)
        scheduler.add_job(runner.look, trigger, [job], id=job.name, next_run_time=now)
    every = IntervalTrigger(seconds=config.poll_seconds, timezone=UTC)
    scheduler.add_job(runner.keep_house, every, id="(house)", executor="house", next_run_time=now)
    return scheduler


def _run(scheduler: Any, stop: Stop) -> None:
    def end() -> None:
        stop.asked.wait()
        _log.info("stopping: no new runs; waiting for those that run, a second signal ends them")
        # nothing is due any longer; then wait for the threads
        scheduler.remove_all_jobs()
        scheduler.shutdown(wait=True)

    threading.Thread(target=end, daemon=True).start()
    scheduler.start()
