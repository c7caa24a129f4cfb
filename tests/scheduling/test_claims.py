"""Several schedulers on one database: one of them claims each run, and another one takes over a lost run."""

import threading
import time
from datetime import timedelta

import pytest

from forecaster.database import retraining
from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.domain.errors import DatabaseUnavailable, ScheduleError
from forecaster.domain.instants import DAY, SECOND, now_microseconds
from forecaster.scheduling.runs import DUE, Runs
from tests.postgres import postgres_server
from tests.scheduling.conftest import RETRAIN, ManualScheduler, SchedulerSandbox, overdue
from tests.stack.postgres import PROGRAMS


def test_a_job_never_runs_twice_at_the_same_time(sandbox_on_either_database: SchedulerSandbox) -> None:
    sandbox = sandbox_on_either_database
    sandbox.set_pipeline(seconds=0.7)
    here = ManualScheduler(sandbox, overdue())
    # a scheduler with another folder sees other locks, as on another machine: only the database separates them
    elsewhere = ManualScheduler(sandbox, overdue(), folder="elsewhere")
    sandbox.add_job(timedelta(hours=1))
    first = threading.Thread(target=here.run_if_due)
    first.start()
    sandbox.wait_until(lambda: sandbox.journal("begin"))
    here.run_if_due()
    elsewhere.run_if_due()
    assert len(sandbox.journal()) == 1
    for scheduler in (here, elsewhere):
        with pytest.raises(ScheduleError, match="job 'score': it is already running"):
            scheduler.runner.run_now(scheduler.job)
    first.join()
    elsewhere.run_if_due()
    assert sandbox.states() == [("succeeded", 1)]
    assert elsewhere.runner.run_now(elsewhere.job).exit_code == 0
    assert [line["event"] for line in sandbox.journal()] == ["begin", "end"] * 2


def test_the_database_allows_one_claim_for_each_due_time_and_attempt(
    sandbox_on_either_database: SchedulerSandbox,
) -> None:
    here, there = (Runs(sandbox_on_either_database.engine, place, 600) for place in ("here", "there"))
    first = here.claim("score", DUE, 1)
    assert first is not None
    # neither the same due time, nor another one while the first runs
    assert [there.claim("score", DUE, 1), there.claim("score", DUE, 2)] == [None, None]
    assert there.claim("other", DUE, 1) is not None
    assert here.finish(first, "failed", 1, "", 5)
    # the first attempt stays claimed, and only one scheduler gets the second
    assert there.claim("score", DUE, 1) is None
    second = [runs.claim("score", DUE, 1, 2, retry_of=first.run_id) for runs in (there, here)]
    assert [run is not None for run in second] == [True, False]
    assert here.read_state("score", None).retries == ()


def test_a_due_job_runs_once_if_many_schedulers_poll_at_the_same_time(
    sandbox_on_either_database: SchedulerSandbox,
) -> None:
    sandbox = sandbox_on_either_database
    schedulers = [ManualScheduler(sandbox, overdue(), folder=f"place-{number}") for number in range(4)]
    sandbox.add_job(timedelta(hours=1))
    barrier = threading.Barrier(len(schedulers))

    def poll(scheduler: ManualScheduler) -> None:
        barrier.wait()
        scheduler.run_if_due()

    threads = [threading.Thread(target=poll, args=(scheduler,)) for scheduler in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sandbox.states() == [("succeeded", 1)]
    assert len(sandbox.journal("begin")) == 1


def test_a_lost_run_is_retried_once(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, overdue(), lost_after_seconds=1)
    sandbox.add_job(timedelta(hours=1))
    elsewhere, at = Runs(sandbox.engine, "elsewhere", 1), now_microseconds() - 30 * SECOND
    assert elsewhere.claim("score", DUE, at)
    # the last heartbeat is recent
    scheduler.run_if_due()
    assert sandbox.states() == [("running", 1)]
    _poll_until(sandbox, scheduler, [("lost", 1), ("succeeded", 2)])
    assert scheduler.metric("given_up_total") == 0
    # a job that kills its scheduler each time is given up
    later = at + SECOND
    for attempt in (1, 2):
        assert elsewhere.claim("score", DUE, later, attempt)
        if attempt == 1:
            run = elsewhere.read_state("score", None).open_run
            assert run is not None
            elsewhere.mark_lost(run, "lost")
    _poll_until(sandbox, scheduler, [("lost", 1), ("succeeded", 2), ("lost", 1), ("lost", 2)])
    scheduler.run_if_due()
    assert len(sandbox.runs()) == 4
    assert scheduler.metric("given_up_total") == 1


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
def test_only_a_missing_heartbeat_makes_a_run_lost_not_an_outage_or_a_wrong_clock() -> None:
    seconds = 1.0
    with postgres_server() as server:
        engine = open_engine(server.uri)
        upgrade_schema(engine)
        here, there = (Runs(engine, place, seconds) for place in ("here", "there"))
        run = here.claim("score", DUE, 1)
        assert run is not None

        def is_lost() -> bool:
            open_run = there.read_state("score", None).open_run
            assert open_run is not None
            return there.is_lost(open_run)

        assert not is_lost()
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            here.send_heartbeat(run)
        with pytest.raises(DatabaseUnavailable):
            is_lost()
        time.sleep(seconds * 1.2)
        server.start()
        # the watching scheduler reaches the database before the next heartbeat
        assert not is_lost()
        here.send_heartbeat(run)
        # the clock of the run's machine is a day behind
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE runs SET alive_at = alive_at - {DAY}")
        begin = time.monotonic()
        while not is_lost():
            assert time.monotonic() < begin + 30
            time.sleep(0.02)
        assert time.monotonic() > begin + seconds
        engine.dispose()


def test_run_now_waits_until_it_is_certain_that_an_open_run_is_lost(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, overdue(), lost_after_seconds=1)
    assert Runs(sandbox.engine, "elsewhere", 1).claim("score", DUE, 1)
    with sandbox.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET alive_at = alive_at - {DAY}")
    begin = time.monotonic()
    assert scheduler.runner.run_now(scheduler.job).exit_code == 0
    assert time.monotonic() > begin + 1
    assert [(run.state, run.cause) for run in sandbox.runs()] == [("lost", "due"), ("succeeded", "once")]


def test_a_run_of_another_machine_is_not_lost_while_it_sends_heartbeats(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(seconds=2)
    here, elsewhere = (
        ManualScheduler(sandbox, overdue(), folder=folder, lost_after_seconds=1) for folder in ("here", "elsewhere")
    )
    sandbox.add_job(timedelta(hours=1))
    thread = threading.Thread(target=here.run_if_due)
    thread.start()
    sandbox.wait_until(lambda: sandbox.journal("begin"))
    while not sandbox.journal("end"):
        elsewhere.run_if_due()
    thread.join()
    assert sandbox.states() == [("succeeded", 1)]


def test_only_one_of_many_claims_gets_a_retraining_request(sandbox_on_either_database: SchedulerSandbox) -> None:
    request_id, barrier = sandbox_on_either_database.request_retraining("stock"), threading.Barrier(6)
    claimed: list[bool] = []

    def claim() -> None:
        barrier.wait()
        with transaction(sandbox_on_either_database.engine) as connection:
            claimed.append(retraining.claim_request(connection, request_id, now_microseconds() - 60 * SECOND))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [False] * 5 + [True]


def test_a_retraining_request_runs_once_and_records_the_outcome(
    sandbox_on_either_database: SchedulerSandbox,
) -> None:
    sandbox = sandbox_on_either_database
    sandbox.set_pipeline(seconds=0.3)
    schedulers = [ManualScheduler(sandbox, RETRAIN | {"when": None}, folder=f"place-{number}") for number in range(3)]
    sandbox.request_retraining("stock")
    sandbox.request_retraining("unheard-of")
    barrier = threading.Barrier(len(schedulers))

    def poll(scheduler: ManualScheduler) -> None:
        barrier.wait()
        scheduler.run_if_due()
        scheduler.runner.do_housekeeping()

    threads = [threading.Thread(target=poll, args=(scheduler,)) for scheduler in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = sandbox.runs()
    served, unserved = sandbox.requests()
    assert (run.cause, run.state, run.asked_id, run.due_at) == ("asked", "succeeded", served.job_id, served.asked_at)
    assert served.asked_at <= served.taken_at <= served.ended_at
    assert served.outcome == '{"outcome": "promoted", "argv": ["stock.yaml"]}'
    assert unserved.ended_at and unserved.outcome == "not run: no job of the schedule retrains 'unheard-of'"
    assert len(sandbox.journal("begin")) == 1


def _poll_until(sandbox: SchedulerSandbox, scheduler: ManualScheduler, states: list[tuple[str, int]]) -> None:
    def has_states() -> bool:
        scheduler.run_if_due()
        return sandbox.states() == states

    sandbox.wait_until(has_states)
