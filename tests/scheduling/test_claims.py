"""Several schedulers on one database: each run is one's, and goes to another when that one is lost."""

import threading
import time
from datetime import timedelta

import pytest

from forecaster.database import jobs
from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import bring_up_to_date
from forecaster.domain.errors import DatabaseUnavailable, ScheduleError
from forecaster.domain.instants import DAY, SECOND, now_at
from forecaster.scheduling.runs import DUE, Runs
from tests.postgres import postgres_server
from tests.scheduling.conftest import RETRAIN, ManualScheduler, SchedulerSandbox, earlier
from tests.stack.postgres import PROGRAMS


def test_one_job_never_runs_beside_itself_here_or_elsewhere(sandbox_on_either_database: SchedulerSandbox) -> None:
    sandbox = sandbox_on_either_database
    sandbox.order(seconds=0.7)
    here = ManualScheduler(sandbox, earlier())
    # another folder has other locks: as on another machine, where the database alone keeps them apart
    elsewhere = ManualScheduler(sandbox, earlier(), folder="elsewhere")
    sandbox.seen(timedelta(hours=1))
    first = threading.Thread(target=here.look)
    first.start()
    sandbox.wait(lambda: sandbox.journal("begin"))
    here.look()
    elsewhere.look()
    assert len(sandbox.journal()) == 1
    for one in (here, elsewhere):
        with pytest.raises(ScheduleError, match="job 'score': it runs already"):
            one.runner.once(one.job)
    first.join()
    elsewhere.look()
    assert sandbox.states() == [("succeeded", 1)]
    assert elsewhere.runner.once(elsewhere.job).exit_code == 0
    assert [line["event"] for line in sandbox.journal()] == ["begin", "end"] * 2


def test_the_database_alone_keeps_claims_apart(sandbox_on_either_database: SchedulerSandbox) -> None:
    here, there = (Runs(sandbox_on_either_database.engine, place, 600) for place in ("here", "there"))
    first = here.claim("score", DUE, 1)
    assert first is not None
    # the same moment, and another one while the first runs
    assert [there.claim("score", DUE, 1), there.claim("score", DUE, 2)] == [None, None]
    assert there.claim("other", DUE, 1) is not None
    assert here.end(first, "failed", 1, "", 5)
    # the moment is still its, and one of those who try it again
    assert there.claim("score", DUE, 1) is None
    again = [one.claim("score", DUE, 1, 2, follows=first.run_id) for one in (there, here)]
    assert [run is not None for run in again] == [True, False]
    assert here.know("score", None).owed == ()


def test_many_schedulers_that_look_at_once_run_it_once(sandbox_on_either_database: SchedulerSandbox) -> None:
    sandbox = sandbox_on_either_database
    scheduler = [ManualScheduler(sandbox, earlier(), folder=f"place-{number}") for number in range(4)]
    sandbox.seen(timedelta(hours=1))
    together = threading.Barrier(len(scheduler))
    threads = [threading.Thread(target=lambda one=one: (together.wait(), one.look())) for one in scheduler]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sandbox.states() == [("succeeded", 1)]
    assert len(sandbox.journal("begin")) == 1


def test_a_lost_run_is_run_again_once(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, earlier(), lost_after_seconds=1)
    sandbox.seen(timedelta(hours=1))
    elsewhere, at = Runs(sandbox.engine, "elsewhere", 1), now_at() - 30 * SECOND
    assert elsewhere.claim("score", DUE, at)
    # it may go on as long as it says so
    scheduler.look()
    assert sandbox.states() == [("running", 1)]
    _look_until(sandbox, scheduler, [("lost", 1), ("succeeded", 2)])
    assert scheduler.counted("given_up_total") == 0
    # one that takes its scheduler with it each time is left alone
    later = at + SECOND
    for attempt in (1, 2):
        assert elsewhere.claim("score", DUE, later, attempt)
        if attempt == 1:
            lost = elsewhere.know("score", None).open
            assert lost is not None
            elsewhere.lose(lost, "lost")
    _look_until(sandbox, scheduler, [("lost", 1), ("succeeded", 2), ("lost", 1), ("lost", 2)])
    scheduler.look()
    assert len(sandbox.runs()) == 4
    assert scheduler.counted("given_up_total") == 1


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
def test_a_run_is_lost_when_it_was_seen_to_be_silent_and_not_after_an_outage_or_by_another_clock() -> None:
    patience = 1.0
    with postgres_server() as server:
        engine = open_engine(server.uri)
        bring_up_to_date(engine)
        here, there = (Runs(engine, place, patience) for place in ("here", "there"))
        run = here.claim("score", DUE, 1)
        assert run is not None

        def is_lost() -> bool:
            found = there.know("score", None).open
            assert found is not None
            return there.is_lost(found)

        assert not is_lost()
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            here.keep_alive(run)
        with pytest.raises(DatabaseUnavailable):
            is_lost()
        time.sleep(patience * 1.2)
        server.start()
        # the one that looks is quicker than the one that has something to say
        assert not is_lost()
        here.keep_alive(run)
        # the clock of the one is a day behind that of the other
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE runs SET alive_at = alive_at - {DAY}")
        begin = time.monotonic()
        while not is_lost():
            assert time.monotonic() < begin + 30
            time.sleep(0.02)
        assert time.monotonic() > begin + patience
        engine.dispose()


def test_by_hand_a_run_that_seems_lost_is_watched_before_another_begins(sandbox: SchedulerSandbox) -> None:
    scheduler = ManualScheduler(sandbox, earlier(), lost_after_seconds=1)
    assert Runs(sandbox.engine, "elsewhere", 1).claim("score", DUE, 1)
    with sandbox.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET alive_at = alive_at - {DAY}")
    begin = time.monotonic()
    assert scheduler.runner.once(scheduler.job).exit_code == 0
    assert time.monotonic() > begin + 1
    assert [(run.state, run.cause) for run in sandbox.runs()] == [("lost", "due"), ("succeeded", "once")]


def test_a_run_elsewhere_is_not_lost_while_it_says_that_it_goes_on(sandbox: SchedulerSandbox) -> None:
    sandbox.order(seconds=2)
    here, elsewhere = (
        ManualScheduler(sandbox, earlier(), folder=folder, lost_after_seconds=1) for folder in ("here", "elsewhere")
    )
    sandbox.seen(timedelta(hours=1))
    thread = threading.Thread(target=here.look)
    thread.start()
    sandbox.wait(lambda: sandbox.journal("begin"))
    while not sandbox.journal("end"):
        elsewhere.look()
    thread.join()
    assert sandbox.states() == [("succeeded", 1)]


def test_of_many_takers_one_has_a_retraining(sandbox_on_either_database: SchedulerSandbox) -> None:
    asked, together = sandbox_on_either_database.ask("stock"), threading.Barrier(6)
    had: list[bool] = []

    def reach() -> None:
        together.wait()
        with transaction(sandbox_on_either_database.engine) as connection:
            had.append(jobs.take(connection, asked, now_at() - 60 * SECOND))

    threads = [threading.Thread(target=reach) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(had) == [False] * 5 + [True]


def test_an_asked_retraining_is_taken_once_and_told_what_came_of_it(
    sandbox_on_either_database: SchedulerSandbox,
) -> None:
    sandbox = sandbox_on_either_database
    sandbox.order(seconds=0.3)
    scheduler = [ManualScheduler(sandbox, RETRAIN | {"when": None}, folder=f"place-{number}") for number in range(3)]
    sandbox.ask("stock")
    sandbox.ask("unheard-of")
    together = threading.Barrier(len(scheduler))

    def work(one: ManualScheduler) -> None:
        together.wait()
        one.look()
        one.runner.do_housekeeping()

    threads = [threading.Thread(target=work, args=(one,)) for one in scheduler]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = sandbox.runs()
    mine, strange = sandbox.asked()
    assert (run.cause, run.state, run.asked_id, run.due_at) == ("asked", "succeeded", mine.job_id, mine.asked_at)
    assert mine.asked_at <= mine.taken_at <= mine.ended_at
    assert mine.outcome == '{"outcome": "promoted", "argv": ["stock.yaml"]}'
    assert strange.ended_at and strange.outcome == "not run: no job of the schedule retrains 'unheard-of'"
    assert len(sandbox.journal("begin")) == 1


def _look_until(sandbox: SchedulerSandbox, scheduler: ManualScheduler, states: list[tuple[str, int]]) -> None:
    def has_come() -> bool:
        scheduler.look()
        return sandbox.states() == states

    sandbox.wait(has_come)
