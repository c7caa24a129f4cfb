"""What is owed is run once: missed moments, failures tried again, retrainings that were asked for."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from forecaster.database.engine import transaction
from forecaster.database.tables import JOBS, RUNS
from forecaster.domain.errors import ConfigError
from forecaster.domain.instants import SECOND, now_at
from forecaster.scheduling.runs import DUE, ONCE, Runs
from tests.scheduling.conftest import RETRAIN, ManualScheduler, SchedulerSandbox, daily, earlier


def test_what_was_missed_is_run_once_and_then_no_more(sandbox: SchedulerSandbox) -> None:
    minutes = sorted(int(daily(timedelta(minutes=ago)).split()[0]) for ago in (10, 20, 30))
    scheduler = ManualScheduler(sandbox, {"when": {"cron": f"{','.join(map(str, minutes))} * * * *"}})
    # a job that is new owes nothing of before
    scheduler.look()
    assert sandbox.runs() == []
    sandbox.seen(timedelta(hours=3))
    with sandbox.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM runs WHERE due_at > (SELECT min(due_at) FROM runs)")
    scheduler.look()
    scheduler.look()
    (run,) = sandbox.runs()
    assert (run.state, run.exit_code, run.attempt, run.cause) == ("succeeded", 0, 1, "due")
    assert timedelta(minutes=9) < timedelta(microseconds=now_at() - run.due_at) < timedelta(minutes=12)
    assert run.outcome == '{"outcome": "promoted", "argv": []}'
    assert len(sandbox.journal("begin")) == 1
    assert scheduler.counted("runs_total", outcome="succeeded") == 1
    scheduler.runner.do_housekeeping()
    assert scheduler.counted("last_success_timestamp_seconds") == pytest.approx(time.time(), abs=10)


def test_what_was_missed_for_too_long_is_recorded_and_not_run(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, earlier(), catch_up_hours=0.01)
    sandbox.seen(timedelta(hours=1))
    scheduler.look()
    scheduler.look()
    (run,) = sandbox.runs()
    assert (run.state, run.outcome) == ("missed", "missed by more than 0.01 hours")
    assert sandbox.journal() == []
    assert scheduler.counted("runs_total", outcome="missed") == 1


def test_the_metrics_tell_what_was_before_they_are_first_asked(sandbox: SchedulerSandbox) -> None:
    for name, ended in (("score", "missed"), ("lost", "lost")):
        sandbox.seen(timedelta(hours=1), name)
        with transaction(sandbox.engine) as connection:
            connection.execute(update(RUNS).where(RUNS.c.job == name).values(state=ended))
    scheduler = ManualScheduler(sandbox, {}, {"name": "lost"})
    scheduler.runner.tell_latest()
    told = {
        (kind, job): scheduler.counted(f"last_{kind}_timestamp_seconds", job=job)
        for kind in ("success", "failure", "lost", "missed")
        for job in ("score", "lost")
    }
    then = pytest.approx(time.time() - 3600, abs=10)
    assert {which: at for which, at in told.items() if at is not None} == {
        ("missed", "score"): then,
        ("lost", "lost"): then,
        ("failure", "lost"): then,
    }
    # and what another process did since
    run = Runs(sandbox.engine, "elsewhere", 600).claim("score", ONCE, now_at())
    assert run is not None
    Runs(sandbox.engine, "elsewhere", 600).end(run, "succeeded", 0, "{}", None)
    scheduler.runner.do_housekeeping()
    assert scheduler.counted("last_success_timestamp_seconds") == pytest.approx(time.time(), abs=10)


def test_a_failure_is_tried_again_after_growing_delays_until_it_succeeds(sandbox: SchedulerSandbox) -> None:
    sandbox.order(exits=(1, 3, 0))
    scheduler = ManualScheduler(sandbox, earlier())
    sandbox.seen(timedelta(hours=1))
    deadline = time.monotonic() + 30
    while len(sandbox.runs()) < 3 or sandbox.runs()[-1].ended_at is None:
        assert time.monotonic() < deadline
        scheduler.look()
    scheduler.look()
    assert sandbox.states() == [("failed", 1), ("failed", 2), ("succeeded", 3)]
    first, second, third = sandbox.runs()
    assert first.outcome == "error: it went wrong"
    assert {run.due_at for run in (first, second, third)} == {first.due_at}
    assert second.started_at - first.ended_at >= 0.2 * SECOND
    assert third.started_at - second.ended_at >= 0.4 * SECOND
    assert scheduler.counted("given_up_total") == 0
    assert scheduler.counted("runs_total", outcome="failed") == 2


@pytest.mark.parametrize(
    ("job", "exits", "attempts"),
    [
        ({}, (1,), 3),
        # a bad configuration stays one
        ({}, (2,), 1),
        # the same training fails again; data may come late
        (RETRAIN, (4,), 1),
        (RETRAIN, (3,), 3),
        ({}, (4,), 3),
    ],
)
def test_after_the_last_failure_it_is_given_up(
    sandbox: SchedulerSandbox,
    job: dict[str, Any],
    exits: tuple[int, ...],
    attempts: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sandbox.order(exits=exits)
    scheduler = ManualScheduler(sandbox, earlier() | job, retry={"attempts": 3, "first_seconds": 0})
    sandbox.seen(timedelta(hours=1), scheduler.job.name)
    for _ in range(5):
        scheduler.look()
    assert sandbox.states() == [("failed", attempt) for attempt in range(1, attempts + 1)]
    assert scheduler.counted("given_up_total") == 1
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "failed for good: error: it went wrong" in said.getMessage()
    assert (vars(said)["job"], vars(said)["exit_code"], vars(said)["attempt"]) == (
        scheduler.job.name,
        exits[0],
        attempts,
    )


def test_a_run_that_is_due_takes_the_place_of_retries_of_the_one_before(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, earlier())
    sandbox.seen(timedelta(hours=1))
    runs = Runs(sandbox.engine, "elsewhere", 600)
    before = runs.claim("score", DUE, now_at() - 600 * SECOND)
    assert before is not None
    runs.end(before, "failed", 1, "error: before", now_at())
    scheduler.look()
    scheduler.look()
    assert [(run.state, run.attempt, run.again_at) for run in sandbox.runs()] == [
        ("failed", 1, None),
        ("succeeded", 1, None),
    ]
    assert scheduler.counted("given_up_total") == 1


def test_a_retry_that_comes_too_late_is_given_up(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, {})
    runs = Runs(sandbox.engine, "elsewhere", 600)
    run = runs.claim("score", DUE, 1)
    assert run is not None
    runs.end(run, "failed", 1, "error: before", now_at() - 25 * 3600 * SECOND)
    scheduler.look()
    scheduler.look()
    assert [(run.state, run.again_at) for run in sandbox.runs()] == [("failed", None)]
    assert scheduler.counted("given_up_total") == 1


def test_a_run_that_takes_too_long_is_ended_and_has_failed(sandbox: SchedulerSandbox) -> None:
    sandbox.order(seconds=60)
    scheduler = ManualScheduler(sandbox, earlier() | {"timeout_minutes": 0.01}, retry={"attempts": 1})
    sandbox.seen(timedelta(hours=1))
    scheduler.look()
    (run,) = sandbox.runs()
    assert (run.state, run.exit_code, run.outcome) == ("failed", -15, "ended after timeout_minutes, 0.01")


def test_an_asked_retraining_that_fails_ends_after_its_last_attempt_and_a_takers_death_gives_it_back(
    sandbox: SchedulerSandbox,
) -> None:
    sandbox.order(exits=(1, 1, 0))
    retry = {"attempts": 2, "first_seconds": 0}
    scheduler = ManualScheduler(sandbox, RETRAIN | {"when": None}, retry=retry, lost_after_seconds=60)
    # somebody has only just taken it
    sandbox.ask("stock", taken_seconds_ago=10)
    scheduler.look()
    assert sandbox.states() == []
    # and died before there was a run
    with transaction(sandbox.engine) as connection:
        connection.execute(update(JOBS).values(taken_at=JOBS.c.taken_at - 51 * SECOND))
    scheduler.look()
    assert sandbox.states() == [("failed", 1)]
    assert sandbox.asked()[0].ended_at is None
    scheduler.look()
    scheduler.look()
    assert sandbox.states() == [("failed", 1), ("failed", 2)]
    (asked,) = sandbox.asked()
    assert asked.outcome == "error: it went wrong"
    assert asked.ended_at


def test_a_file_that_is_broken_while_the_schedule_runs_is_a_failure_that_is_reported(sandbox: SchedulerSandbox) -> None:
    # as the pipeline ends with it
    sandbox.order(exits=(2,))
    scheduler = ManualScheduler(sandbox, RETRAIN | earlier())
    sandbox.seen(timedelta(hours=1), scheduler.job.name)
    (sandbox.folder / "stock.yaml").write_text("train: {name: [")
    sandbox.ask("unheard-of")
    scheduler.look()
    scheduler.runner.do_housekeeping()
    assert [(run.state, run.exit_code) for run in sandbox.runs()] == [("failed", 2)]
    assert scheduler.counted("given_up_total") == 1
    assert sandbox.asked()[0].outcome == "not run: no job of the schedule retrains 'unheard-of'"


def test_by_hand_it_is_neither_tried_again_nor_given_up(sandbox: SchedulerSandbox) -> None:
    sandbox.order(exits=(7,))
    scheduler = ManualScheduler(sandbox, earlier())
    assert scheduler.runner.once(scheduler.job).exit_code == 7
    scheduler.look()
    (run,) = sandbox.runs()
    assert (run.cause, run.state, run.again_at) == ("once", "failed", None)
    assert scheduler.counted("given_up_total") == 0


def test_old_runs_are_forgotten_but_not_the_latest_of_a_job(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, earlier(), keep_days=1)
    runs = Runs(sandbox.engine, "here", 600)
    for days in (5, 4, 3):
        run = runs.claim("score", DUE, now_at() - days * 86400 * SECOND)
        assert run is not None
        runs.end(run, "succeeded", 0, "{}", None)
    with sandbox.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET ended_at = due_at")
    latest = sandbox.runs()[-1].due_at
    scheduler.runner.do_housekeeping()
    assert [run.due_at for run in sandbox.runs()] == [latest]


def test_the_folder_must_be_one(sandbox: SchedulerSandbox) -> None:
    Path("file").touch()
    with pytest.raises(ConfigError, match="folder: file/here cannot be made"):
        ManualScheduler(sandbox, earlier(), folder="file/here")
