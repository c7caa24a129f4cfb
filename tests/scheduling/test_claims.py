"""Several schedulers on one database: each run is one's, and goes to another when that one is lost."""

import threading
from datetime import timedelta

import pytest

from forecaster.database import jobs
from forecaster.database.engine import transaction
from forecaster.domain.errors import ScheduleError
from forecaster.domain.instants import SECOND, now_at
from forecaster.scheduling.runs import DUE, Runs
from tests.scheduling.conftest import RETRAIN, Hands, Yard, earlier


def test_one_job_never_runs_beside_itself_here_or_elsewhere(either_yard: Yard) -> None:
    yard = either_yard
    yard.order(seconds=0.7)
    here = Hands(yard, earlier())
    # another folder has other locks: as on another machine, where the database alone keeps them apart
    elsewhere = Hands(yard, earlier(), folder="elsewhere")
    yard.seen(timedelta(hours=1))
    first = threading.Thread(target=here.look)
    first.start()
    yard.wait(lambda: yard.journal("begin"))
    here.look()
    elsewhere.look()
    assert len(yard.journal()) == 1
    for one in (here, elsewhere):
        with pytest.raises(ScheduleError, match="job 'score': it runs already"):
            one.runner.once(one.job)
    first.join()
    elsewhere.look()
    assert yard.states() == [("succeeded", 1)]
    assert elsewhere.runner.once(elsewhere.job).exit_code == 0
    assert [line["event"] for line in yard.journal()] == ["begin", "end"] * 2


def test_the_database_alone_keeps_claims_apart(either_yard: Yard) -> None:
    here, there = (Runs(either_yard.engine, place, 600) for place in ("here", "there"))
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


def test_many_schedulers_that_look_at_once_run_it_once(either_yard: Yard) -> None:
    yard = either_yard
    hands = [Hands(yard, earlier(), folder=f"place-{number}") for number in range(4)]
    yard.seen(timedelta(hours=1))
    together = threading.Barrier(len(hands))
    threads = [threading.Thread(target=lambda one=one: (together.wait(), one.look())) for one in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert yard.states() == [("succeeded", 1)]
    assert len(yard.journal("begin")) == 1


def test_a_lost_run_is_run_again_once(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    hands = Hands(yard, earlier())
    yard.seen(timedelta(hours=1))
    elsewhere, at = Runs(yard.engine, "elsewhere", 1), now_at() - 30 * SECOND
    assert elsewhere.claim("score", DUE, at)
    # it may go on as long as it says so
    hands.look()
    assert yard.states() == [("running", 1)]
    _age(yard, 601)
    hands.look()
    assert yard.states() == [("lost", 1), ("succeeded", 2)]
    assert hands.counted("given_up_total") == 0
    # one that takes its scheduler with it each time is left alone
    later = at + SECOND
    for attempt in (1, 2):
        assert elsewhere.claim("score", DUE, later, attempt)
        _age(yard, 601)
        if attempt == 1:
            lost = elsewhere.know("score", None).open
            assert lost is not None
            elsewhere.lose(lost, "lost")
    hands.look()
    hands.look()
    assert yard.states()[2:] == [("lost", 1), ("lost", 2)]
    assert hands.counted("given_up_total") == 1


def test_a_run_elsewhere_is_not_lost_while_it_says_that_it_goes_on(yard: Yard) -> None:
    yard.order(seconds=2)
    here, elsewhere = (Hands(yard, earlier(), folder=folder, lost_after_seconds=1) for folder in ("here", "elsewhere"))
    yard.seen(timedelta(hours=1))
    thread = threading.Thread(target=here.look)
    thread.start()
    yard.wait(lambda: yard.journal("begin"))
    while not yard.journal("end"):
        elsewhere.look()
    thread.join()
    assert yard.states() == [("succeeded", 1)]


def test_of_many_takers_one_has_a_retraining(either_yard: Yard) -> None:
    asked, together = either_yard.ask("stock"), threading.Barrier(6)
    had: list[bool] = []

    def reach() -> None:
        together.wait()
        with transaction(either_yard.engine) as connection:
            had.append(jobs.take(connection, asked, now_at() - 60 * SECOND))

    threads = [threading.Thread(target=reach) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(had) == [False] * 5 + [True]


def test_an_asked_retraining_is_taken_once_and_told_what_came_of_it(either_yard: Yard) -> None:
    yard = either_yard
    yard.order(seconds=0.3)
    hands = [Hands(yard, RETRAIN | {"when": None}, folder=f"place-{number}") for number in range(3)]
    yard.ask("stock")
    yard.ask("unheard-of")
    together = threading.Barrier(len(hands))

    def work(one: Hands) -> None:
        together.wait()
        one.look()
        one.runner.keep_house()

    threads = [threading.Thread(target=work, args=(one,)) for one in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = yard.runs()
    mine, strange = yard.asked()
    assert (run.cause, run.state, run.asked_id, run.due_at) == ("asked", "succeeded", mine.job_id, mine.asked_at)
    assert mine.asked_at <= mine.taken_at <= mine.ended_at
    assert mine.outcome == '{"outcome": "promoted", "argv": ["stock.yaml"]}'
    assert strange.ended_at and strange.outcome == "not run: no job of the schedule retrains 'unheard-of'"
    assert len(yard.journal("begin")) == 1


def _age(yard: Yard, seconds: int) -> None:
    with yard.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET alive_at = alive_at - {seconds * SECOND} WHERE ended_at IS NULL")
