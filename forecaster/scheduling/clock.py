"""The scheduler's process: looks for each job when it is due, and every few seconds; stops in order."""

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from threading import BoundedSemaphore, Event
from types import FrameType

from sqlalchemy import Engine

from forecaster.domain.instants import as_moment, now_at
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics, serve
from forecaster.scheduling.reports import Reports
from forecaster.scheduling.runner import Runner, Stop
from forecaster.scheduling.when import When

_log = logging.getLogger("forecaster.schedule")


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
        runner.tell_latest()
        served = serve(config.metrics, metrics.registry) if config.metrics else None
        if served:
            _log.info("metrics at http://%s:%s/metrics", *served.address)
        try:
            keep_looking(config, runner, stop)
        finally:
            if served:
                served.close()
        return not stop.hurried.is_set()


def keep_looking(config: ScheduleConfig, runner: Runner, stop: Stop) -> None:
    """Look for what each job owes until told to stop, then wait for what runs.

    What is due is in the database, so nothing is remembered between looks. A job queued behind others finds what it
    owes when its turn comes.

    Raises:
        CalendarError: an exchange's calendar has come to its end.
    """
    turns = BoundedSemaphore(config.at_once)

    def look(job: JobConfig) -> None:
        with turns:
            runner.look(job)

    # none in this thread: a signal's handler, which runs in it, sets the event that they wait for
    with ThreadPoolExecutor(len(config.jobs) + 1) as threads:

        def repeat(work: Callable[[], None], when: When | None = None) -> Future[None]:
            return threads.submit(_repeat, work, when, config.poll_seconds, stop.asked)

        loops = [repeat(partial(look, job), job.when) for job in config.jobs] + [repeat(runner.do_housekeeping)]
        wait(loops, return_when=FIRST_COMPLETED)
        _log.info("stopping: no new runs; waiting for those that run, a second signal ends them")
    for loop in loops:
        loop.result()


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


def _repeat(work: Callable[[], None], when: When | None, poll_seconds: float, asked: Event) -> None:
    """Do some work when it is due, and every few seconds wherever the wall clock is set, until asked to stop."""
    try:
        while not asked.is_set():
            begin = as_moment(now_at())
            try:
                work()
            except Exception:
                # one job's trouble is not to end the others
                _log.exception("a look failed; repeated in %g s", poll_seconds)
            # also what has become due since it began
            due_seconds = (when.after(begin) - as_moment(now_at())).total_seconds() if when else poll_seconds
            asked.wait(max(0.0, min(due_seconds, poll_seconds)))
    finally:
        asked.set()
