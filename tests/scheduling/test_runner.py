"""The runner: missed due times run once, failures are retried, and retraining requests are served."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from forecaster.database.engine import transaction
from forecaster.database.tables import JOBS, RUNS
from forecaster.domain.errors import ConfigError
from forecaster.domain.instants import SECOND, now_microseconds
from forecaster.scheduling.runs import DUE, ONCE, Runs
from tests.scheduling.conftest import RETRAIN, ManualScheduler, SchedulerSandbox, daily_cron, overdue


def test_missed_due_times_run_once(sandbox: SchedulerSandbox) -> None:
    minutes = sorted(int(daily_cron(timedelta(minutes=ago)).split()[0]) for ago in (10, 20, 30))
    scheduler = ManualScheduler(sandbox, {"when": {"cron": f"{','.join(map(str, minutes))} * * * *"}})
    # what was due before a job was added does not run
    scheduler.run_if_due()
    assert sandbox.runs() == []
    sandbox.add_job(timedelta(hours=3))
    with sandbox.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM runs WHERE due_at > (SELECT min(due_at) FROM runs)")
    scheduler.run_if_due()
    scheduler.run_if_due()
    (run,) = sandbox.runs()
    assert (run.state, run.exit_code, run.attempt, run.cause) == ("succeeded", 0, 1, "due")
    assert timedelta(minutes=9) < timedelta(microseconds=now_microseconds() - run.due_at) < timedelta(minutes=12)
    assert run.outcome == '{"outcome": "promoted", "argv": []}'
    assert len(sandbox.journal("begin")) == 1
    assert scheduler.metric("runs_total", outcome="succeeded") == 1
    scheduler.runner.do_housekeeping()
    assert scheduler.metric("last_success_timestamp_seconds") == pytest.approx(time.time(), abs=10)


def test_a_moment_missed_for_too_long_is_recorded_and_not_run(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, overdue(), catch_up_hours=0.01)
    sandbox.add_job(timedelta(hours=1))
    scheduler.run_if_due()
    scheduler.run_if_due()
    (run,) = sandbox.runs()
    assert (run.state, run.outcome) == ("missed", "missed by more than 0.01 hours")
    assert sandbox.journal() == []
    assert scheduler.metric("runs_total", outcome="missed") == 1


def test_metrics_include_runs_of_other_and_earlier_schedulers(sandbox: SchedulerSandbox) -> None:
    for name, state in (("score", "missed"), ("lost", "lost")):
        sandbox.add_job(timedelta(hours=1), name)
        with transaction(sandbox.engine) as connection:
            connection.execute(update(RUNS).where(RUNS.c.job == name).values(state=state))
    scheduler = ManualScheduler(sandbox, {}, {"name": "lost"})
    scheduler.runner.update_metrics()
    timestamps = {
        (kind, job): scheduler.metric(f"last_{kind}_timestamp_seconds", job=job)
        for kind in ("success", "failure", "lost", "missed")
        for job in ("score", "lost")
    }
    then = pytest.approx(time.time() - 3600, abs=10)
    assert {key: at for key, at in timestamps.items() if at is not None} == {
        ("missed", "score"): then,
        ("lost", "lost"): then,
        ("failure", "lost"): then,
    }
    # a run of another scheduler
    run = Runs(sandbox.engine, "elsewhere", 600).claim("score", ONCE, now_microseconds())
    assert run is not None
    Runs(sandbox.engine, "elsewhere", 600).finish(run, "succeeded", 0, "{}", None)
    scheduler.runner.do_housekeeping()
    assert scheduler.metric("last_success_timestamp_seconds") == pytest.approx(time.time(), abs=10)


def test_a_failed_run_is_retried_after_growing_delays_until_it_succeeds(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(exit_codes=(1, 3, 0))
    scheduler = ManualScheduler(sandbox, overdue())
    sandbox.add_job(timedelta(hours=1))
    deadline = time.monotonic() + 30
    while len(sandbox.runs()) < 3 or sandbox.runs()[-1].ended_at is None:
        assert time.monotonic() < deadline
        scheduler.run_if_due()
    scheduler.run_if_due()
    assert sandbox.states() == [("failed", 1), ("failed", 2), ("succeeded", 3)]
    first, second, third = sandbox.runs()
    assert first.outcome == "error: it went wrong"
    assert {run.due_at for run in (first, second, third)} == {first.due_at}
    assert second.started_at - first.ended_at >= 0.2 * SECOND
    assert third.started_at - second.ended_at >= 0.4 * SECOND
    assert scheduler.metric("given_up_total") == 0
    assert scheduler.metric("runs_total", outcome="failed") == 2


@pytest.mark.parametrize(
    ("job", "exit_codes", "attempts"),
    [
        ({}, (1,), 3),
        # a bad configuration fails again
        ({}, (2,), 1),
        # the same training fails again (4), but missing data may arrive (3)
        (RETRAIN, (4,), 1),
        (RETRAIN, (3,), 3),
        ({}, (4,), 3),
    ],
)
def test_a_job_is_given_up_after_its_last_attempt(
    sandbox: SchedulerSandbox,
    job: dict[str, Any],
    exit_codes: tuple[int, ...],
    attempts: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sandbox.set_pipeline(exit_codes=exit_codes)
    scheduler = ManualScheduler(sandbox, overdue() | job, retry={"attempts": 3, "first_seconds": 0})
    sandbox.add_job(timedelta(hours=1), scheduler.job.name)
    for _ in range(5):
        scheduler.run_if_due()
    assert sandbox.states() == [("failed", attempt) for attempt in range(1, attempts + 1)]
    assert scheduler.metric("given_up_total") == 1
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "failed for good: error: it went wrong" in record.getMessage()
    assert (vars(record)["job"], vars(record)["exit_code"], vars(record)["attempt"]) == (
        scheduler.job.name,
        exit_codes[0],
        attempts,
    )


def test_a_due_run_replaces_the_retry_of_an_earlier_run(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, overdue())
    sandbox.add_job(timedelta(hours=1))
    runs = Runs(sandbox.engine, "elsewhere", 600)
    before = runs.claim("score", DUE, now_microseconds() - 600 * SECOND)
    assert before is not None
    runs.finish(before, "failed", 1, "error: before", now_microseconds())
    scheduler.run_if_due()
    scheduler.run_if_due()
    assert [(run.state, run.attempt, run.again_at) for run in sandbox.runs()] == [
        ("failed", 1, None),
        ("succeeded", 1, None),
    ]
    assert scheduler.metric("given_up_total") == 1


def test_a_retry_older_than_catch_up_hours_is_given_up(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, {})
    runs = Runs(sandbox.engine, "elsewhere", 600)
    run = runs.claim("score", DUE, 1)
    assert run is not None
    runs.finish(run, "failed", 1, "error: before", now_microseconds() - 25 * 3600 * SECOND)
    scheduler.run_if_due()
    scheduler.run_if_due()
    assert [(run.state, run.again_at) for run in sandbox.runs()] == [("failed", None)]
    assert scheduler.metric("given_up_total") == 1


def test_a_run_longer_than_timeout_minutes_is_terminated_and_fails(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(seconds=60)
    scheduler = ManualScheduler(sandbox, overdue() | {"timeout_minutes": 0.01}, retry={"attempts": 1})
    sandbox.add_job(timedelta(hours=1))
    scheduler.run_if_due()
    (run,) = sandbox.runs()
    assert (run.state, run.exit_code, run.outcome) == ("failed", -15, "terminated after timeout_minutes (0.01)")


def test_an_abandoned_retraining_request_is_claimed_again_and_closed_after_the_last_attempt(
    sandbox: SchedulerSandbox,
) -> None:
    sandbox.set_pipeline(exit_codes=(1, 1, 0))
    retry = {"attempts": 2, "first_seconds": 0}
    scheduler = ManualScheduler(sandbox, RETRAIN | {"when": None}, retry=retry, lost_after_seconds=60)
    # another scheduler has just claimed it
    sandbox.request_retraining("stock", claimed_seconds_ago=10)
    scheduler.run_if_due()
    assert sandbox.states() == []
    # and was killed before the run started
    with transaction(sandbox.engine) as connection:
        connection.execute(update(JOBS).values(taken_at=JOBS.c.taken_at - 51 * SECOND))
    scheduler.run_if_due()
    assert sandbox.states() == [("failed", 1)]
    assert sandbox.requests()[0].ended_at is None
    scheduler.run_if_due()
    scheduler.run_if_due()
    assert sandbox.states() == [("failed", 1), ("failed", 2)]
    (request,) = sandbox.requests()
    assert request.outcome == "error: it went wrong"
    assert request.ended_at


def test_a_configuration_broken_after_the_start_fails_and_is_reported(sandbox: SchedulerSandbox) -> None:
    # the exit code of a pipeline with a bad configuration
    sandbox.set_pipeline(exit_codes=(2,))
    scheduler = ManualScheduler(sandbox, RETRAIN | overdue())
    sandbox.add_job(timedelta(hours=1), scheduler.job.name)
    (sandbox.folder / "stock.yaml").write_text("train: {name: [")
    sandbox.request_retraining("unheard-of")
    scheduler.run_if_due()
    scheduler.runner.do_housekeeping()
    assert [(run.state, run.exit_code) for run in sandbox.runs()] == [("failed", 2)]
    assert scheduler.metric("given_up_total") == 1
    assert sandbox.requests()[0].outcome == "not run: no job of the schedule retrains 'unheard-of'"


def test_a_failed_run_now_is_neither_retried_nor_reported(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(exit_codes=(7,))
    scheduler = ManualScheduler(sandbox, overdue())
    assert scheduler.runner.run_now(scheduler.job).exit_code == 7
    scheduler.run_if_due()
    (run,) = sandbox.runs()
    assert (run.cause, run.state, run.again_at) == ("once", "failed", None)
    assert scheduler.metric("given_up_total") == 0


def test_old_runs_are_deleted_except_the_latest_of_each_job(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, overdue(), keep_days=1)
    runs = Runs(sandbox.engine, "here", 600)
    for days in (5, 4, 3):
        run = runs.claim("score", DUE, now_microseconds() - days * 86400 * SECOND)
        assert run is not None
        runs.finish(run, "succeeded", 0, "{}", None)
    with sandbox.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET ended_at = due_at")
    latest = sandbox.runs()[-1].due_at
    scheduler.runner.do_housekeeping()
    assert [run.due_at for run in sandbox.runs()] == [latest]


def test_a_folder_that_cannot_be_created_is_refused(sandbox: SchedulerSandbox) -> None:
    Path("file").touch()
    with pytest.raises(ConfigError, match="folder: file/here cannot be created"):
        ManualScheduler(sandbox, overdue(), folder="file/here")
