"""The scheduler's loop: it survives a clock that is set back, and reacts to signals at any time."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from forecaster.domain.instants import DAY, now_microseconds
from forecaster.scheduling.scheduler import run_jobs_when_due
from tests.postgres import fresh_database
from tests.scheduling.conftest import (
    RETRAIN,
    ManualScheduler,
    SchedulerSandbox,
    killed_afterwards,
    make_sandbox,
    overdue,
    wait_for_exit,
)


@contextmanager
def running_loop(scheduler: ManualScheduler) -> Iterator[None]:
    """Run a scheduler's loop in a thread."""
    thread = threading.Thread(target=run_jobs_when_due, args=(scheduler.config, scheduler.runner, scheduler.stop))
    thread.start()
    try:
        yield
    finally:
        scheduler.stop.requested.set()
        thread.join()


def test_jobs_and_retries_run_on_time_after_the_clock_is_set_back(
    sandbox: SchedulerSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time, days_ahead = time.time_ns, [1]
    monkeypatch.setattr(time, "time_ns", lambda: true_time() + days_ahead[0] * DAY * 1000)
    sandbox.set_pipeline(exit_codes=(0, 1, 0))
    jobs = overdue(), RETRAIN | {"when": None, "retry": {"attempts": 2, "first_seconds": 3600}}
    sandbox.add_job(timedelta(hours=1))
    with running_loop(ManualScheduler(sandbox, *jobs)):
        sandbox.wait_until(lambda: sandbox.states() == [("succeeded", 1)])
        sandbox.request_retraining("stock")
        sandbox.wait_until(lambda: sandbox.states() == [("succeeded", 1), ("failed", 1)])
        days_ahead[0] = 0
        sandbox.wait_until(lambda: len(sandbox.runs()) == 4 and all(run.ended_at for run in sandbox.runs()))
    before, _, *after = sandbox.runs()
    assert {(run.job, run.state, run.attempt) for run in after} == {
        ("score", "succeeded", 1),
        ("retrain-stock", "succeeded", 2),
    }
    (due,) = [run.due_at for run in after if run.job == "score"]
    assert due == before.due_at - DAY < now_microseconds()


def test_a_signal_during_the_start_stops_the_scheduler(postgres: str, tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path, fresh_database(postgres))
    sandbox.write_schedule(overdue())
    sandbox.add_job(timedelta(hours=1))
    waiting_for_lock = text(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with sandbox.engine.begin() as holder:
        holder.execute(text("LOCK TABLE runs"))
        scheduler = sandbox.start_scheduler()
        with killed_afterwards(scheduler):

            def is_blocked() -> bool:
                with sandbox.engine.begin() as connection:
                    return connection.execute(waiting_for_lock).first() is not None

            sandbox.wait_until(is_blocked)
            scheduler.send_signal(signal.SIGTERM)
            # releases the lock
            holder.rollback()
            status, out, err = wait_for_exit(scheduler, seconds=15)
    assert (status, json.loads(out)) == (0, {"is_finished": True}), err
    assert sandbox.runs() == []
    sandbox.engine.dispose()
