"""The scheduler's loop: it outlives a wall clock that is set back, and hears a signal whenever it comes."""

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

from forecaster.domain.instants import DAY, now_at
from forecaster.scheduling.clock import keep_looking
from tests.postgres import fresh_database
from tests.scheduling.conftest import RETRAIN, ManualScheduler, SchedulerSandbox, earlier, end, ended, make_sandbox


@contextmanager
def looking(scheduler: ManualScheduler) -> Iterator[None]:
    """Let a scheduler look by itself meanwhile."""
    thread = threading.Thread(target=keep_looking, args=(scheduler.config, scheduler.runner, scheduler.stop))
    thread.start()
    try:
        yield
    finally:
        scheduler.stop.asked.set()
        thread.join()


def test_a_clock_that_is_set_back_holds_nothing_up(sandbox: SchedulerSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran by the wrong clock neither stops the looks nor hides what is due, nor makes a retry wait for a day."""
    real, days = time.time_ns, [1]
    monkeypatch.setattr(time, "time_ns", lambda: real() + days[0] * DAY * 1000)
    sandbox.order(exits=(0, 1, 0))
    jobs = earlier(), RETRAIN | {"when": None, "retry": {"attempts": 2, "first_seconds": 3600}}
    sandbox.seen(timedelta(hours=1))
    with looking(ManualScheduler(sandbox, *jobs)):
        sandbox.wait(lambda: sandbox.states() == [("succeeded", 1)])
        sandbox.ask("stock")
        sandbox.wait(lambda: sandbox.states() == [("succeeded", 1), ("failed", 1)])
        days[0] = 0
        sandbox.wait(lambda: len(sandbox.runs()) == 4 and all(run.ended_at for run in sandbox.runs()))
    ahead, _, *behind = sandbox.runs()
    assert {(run.job, run.state, run.attempt) for run in behind} == {
        ("score", "succeeded", 1),
        ("retrain-stock", "succeeded", 2),
    }
    (due,) = [run.due_at for run in behind if run.job == "score"]
    assert due == ahead.due_at - DAY < now_at()


def test_a_signal_that_comes_while_it_starts_ends_it(postgres: str, tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path, fresh_database(postgres))
    sandbox.write(earlier())
    sandbox.seen(timedelta(hours=1))
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    with sandbox.engine.begin() as holder:
        holder.execute(text("LOCK TABLE runs"))
        scheduler = sandbox.start()
        with ended(scheduler):

            def is_held_up() -> bool:
                with sandbox.engine.begin() as connection:
                    return connection.execute(waiting).first() is not None

            sandbox.wait(is_held_up)
            scheduler.send_signal(signal.SIGTERM)
            # the lock is given back
            holder.rollback()
            status, out, err = end(scheduler, seconds=15)
    assert (status, json.loads(out)) == (0, {"is_finished": True}), err
    assert sandbox.runs() == []
    sandbox.engine.dispose()
