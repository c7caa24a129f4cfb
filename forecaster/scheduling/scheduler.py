"""The scheduler's loops: one thread for each job, which runs it when it is due, and an orderly stop on signals."""

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from threading import BoundedSemaphore, Event
from types import FrameType

from sqlalchemy import Engine

from forecaster.domain.instants import from_microseconds, now_microseconds
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics, serve
from forecaster.scheduling.reports import FailureReporter
from forecaster.scheduling.runner import Runner, Stop
from forecaster.scheduling.triggers import Trigger

_log = logging.getLogger("forecaster.schedule")


def run_scheduler(config: ScheduleConfig, engine: Engine) -> bool:
    """Run jobs when they are due until a stop signal arrives; then wait for the running jobs.

    Args:
        config: the jobs.
        engine: the database, with its tables up to date.

    Returns:
        whether the running jobs could finish; False if a second signal terminated them.

    Raises:
        ConfigError: the folder, the metrics' address or the webhook's URL cannot be used.
        CalendarError: an exchange's calendar has no further session.
        DatabaseUnavailable: the database does not answer at the start; later the scheduler retries.
    """
    metrics = Metrics(config.jobs)
    with stop_on_signals() as stop:
        runner = Runner(config, engine, metrics, FailureReporter(metrics), stop)
        runner.update_metrics()
        server = serve(config.metrics, metrics.registry) if config.metrics else None
        if server:
            _log.info("metrics at http://%s:%s/metrics", *server.address)
        try:
            run_jobs_when_due(config, runner, stop)
        finally:
            if server:
                server.close()
        return not stop.forced.is_set()


def run_jobs_when_due(config: ScheduleConfig, runner: Runner, stop: Stop) -> None:
    """Run each job when it is due until a stop is requested; then wait for the running jobs.

    Each poll reads from the database which runs are due. A job that has to wait for a free slot reads it when it
    starts.

    Raises:
        CalendarError: an exchange's calendar has no further session.
    """
    slots = BoundedSemaphore(config.at_once)

    def poll(job: JobConfig) -> None:
        with slots:
            runner.run_if_due(job)

    # the main thread runs no loop: the signal handlers run in it, and set the event that the loops wait for
    with ThreadPoolExecutor(len(config.jobs) + 1) as threads:

        def start(name: str, task: Callable[[], None], trigger: Trigger | None = None) -> Future[None]:
            return threads.submit(_repeat, name, task, trigger, config.poll_seconds, stop.requested)

        loops = [start(f"job '{job.name}'", partial(poll, job), job.when) for job in config.jobs]
        loops.append(start("housekeeping", runner.do_housekeeping))
        wait(loops, return_when=FIRST_COMPLETED)
        _log.info("stopping: no new runs; waiting for the running jobs, which a second signal terminates")
    for loop in loops:
        loop.result()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle SIGTERM and SIGINT: the first signal requests a stop, the second forces it."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        (stop.forced if stop.requested.is_set() else stop.requested).set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _repeat(name: str, task: Callable[[], None], trigger: Trigger | None, poll_seconds: float, stop: Event) -> None:
    """Run a task when its trigger fires, and every `poll_seconds` of elapsed time, until the stop event is set."""
    try:
        while not stop.is_set():
            begin = from_microseconds(now_microseconds())
            try:
                task()
            except Exception:
                # a failing job must not stop the others
                _log.exception("%s: failed unexpectedly; next attempt in at most %g s", name, poll_seconds)
            # counted from the beginning of the task, so that a time that passed while it ran is not missed
            now = from_microseconds(now_microseconds())
            due_seconds = (trigger.after(begin) - now).total_seconds() if trigger else poll_seconds
            stop.wait(max(0.0, min(due_seconds, poll_seconds)))
    finally:
        stop.set()
