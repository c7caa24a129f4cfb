"""The runs of jobs in the database: claimed by one scheduler, kept alive, ended, lost, tried again.

Two constraints keep schedulers apart on any database: a job's due moment has one run of each attempt, and a job has one
run that has not ended.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, select, update

from forecaster.database import jobs
from forecaster.database.engine import insert_or, transaction
from forecaster.database.jobs import Asked
from forecaster.database.tables import RUNS
from forecaster.domain.instants import SECOND, now_at

# causes
DUE, ASKED, ONCE = "due", "asked", "once"
# states
RUNNING, SUCCEEDED, FAILED, LOST, MISSED, ADDED = "running", "succeeded", "failed", "lost", "missed", "added"


@dataclass(frozen=True)
class Run:
    """An attempt, as the table `runs` has it; instants are microseconds since 1970."""

    run_id: int
    job: str
    cause: str
    due_at: int
    attempt: int
    state: str
    started_at: int
    alive_at: int
    ended_at: int | None
    exit_code: int | None
    outcome: str | None
    again_at: int | None
    asked_id: int | None
    place: str


@dataclass(frozen=True)
class Known:
    """What the database knows of a job.

    Args:
        last_due_at: the latest due moment that was run, missed, or lies before the job was first seen.
        owed: the runs that are to be tried again, the oldest first.
        open: the run that has not ended.
        asked: the retrainings that wait for it.
    """

    last_due_at: int
    owed: tuple[Run, ...]
    open: Run | None
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Lost:
    """What becomes of a lost run."""

    is_run_again: bool


@dataclass(frozen=True)
class _Silence:
    """For how long reads of the database have found the same sign of life; `read_at` by the monotonic clock."""

    run_id: int
    alive_at: int
    seconds: float
    read_at: float


class Runs:
    """The table, as the schedulers of one place use it.

    Args:
        engine: the database.
        place: which processes can tell by a lock whether a run goes on.
        lost_after_seconds: of silence, after which the run of another place is taken to be lost.
    """

    def __init__(self, engine: Engine, place: str, lost_after_seconds: float) -> None:
        self.engine = engine
        self.place = place
        self.patience = int(lost_after_seconds * SECOND)
        self.beat_seconds = lost_after_seconds / 10
        self._silences: dict[str, _Silence] = {}

    def know(self, job: str, model: str | None) -> Known:
        """Return what is known of a job; what was due before the first time is not owed.

        Args:
            job: its name.
            model: what it retrains for whoever asks; None where it does not.
        """
        now = now_at()
        with transaction(self.engine) as connection:
            last = connection.execute(select(func.max(RUNS.c.due_at)).where(RUNS.c.job == job, _was_due(now))).scalar()
            if last is None:
                added = self._row(job, DUE, now, 1, ADDED) | {"ended_at": now}
                connection.execute(insert_or(connection, RUNS).values(added).on_conflict_do_nothing())
            is_alive = RUNS.c.ended_at.is_(None) | RUNS.c.again_at.is_not(None)
            rows = connection.execute(select(RUNS).where(RUNS.c.job == job, is_alive).order_by(RUNS.c.due_at)).all()
            asked = jobs.waiting_retrainings(connection, now - self.patience, model) if model else []
        runs = [Run(**row._mapping) for row in rows]
        return Known(
            now if last is None else last,
            tuple(run for run in runs if run.ended_at is not None),
            next((run for run in runs if run.ended_at is None), None),
            tuple(asked),
        )

    def claim(
        self,
        job: str,
        cause: str,
        due_at: int,
        attempt: int = 1,
        asked_id: int | None = None,
        follows: int | None = None,
        drops: Sequence[Run] = (),
    ) -> Run | None:
        """Begin a run unless somebody else has; returns it, or None.

        Args:
            job: whose.
            cause: why it is run.
            due_at: since when, in microseconds since 1970.
            attempt: the how manieth of that moment.
            asked_id: the retraining that it is, taken with the first attempt.
            follows: the attempt before.
            drops: those that are not tried again, because this one takes their place.
        """
        row = self._row(job, cause, due_at, attempt, RUNNING) | {"asked_id": asked_id}
        with transaction(self.engine) as connection:
            # before there is a run of it, by which takers that died are told apart
            if (
                asked_id is not None
                and follows is None
                and not jobs.take(connection, asked_id, now_at() - self.patience)
            ):
                return None
            made = insert_or(connection, RUNS).values(row).on_conflict_do_nothing().returning(*RUNS.c)
            claimed = connection.execute(made).first()
            if claimed is None:
                connection.rollback()
                return None
            done_with = [run.run_id for run in drops] + ([follows] if follows is not None else [])
            connection.execute(update(RUNS).where(RUNS.c.run_id.in_(done_with)).values(again_at=None))
        return Run(**claimed._mapping)

    def keep_alive(self, run: Run) -> None:
        """Say that a run goes on."""
        with transaction(self.engine) as connection:
            connection.execute(update(RUNS).where(_is_open(run)).values(alive_at=now_at()))

    def is_lost(self, run: Run) -> bool:
        """Say whether nobody carries on with an open run, which was just read, asked by whoever holds its job's lock.

        At another place it is lost when it was seen to be silent for the whole patience. That is measured here, for the
        clocks of machines differ; and of the time between two reads, in which the database may have been away from
        both, only as much counts as there is between two signs of life.
        """
        if run.place == self.place:
            return True
        now, last = time.monotonic(), self._silences.get(run.job)
        is_silent = last is not None and (last.run_id, last.alive_at) == (run.run_id, run.alive_at)
        seconds = last.seconds + min(now - last.read_at, self.beat_seconds) if last and is_silent else 0.0
        self._silences[run.job] = _Silence(run.run_id, run.alive_at, seconds, now)
        return seconds * SECOND >= self.patience

    def seems_silent(self, run: Run) -> bool:
        """Say whether the last sign of life of an open run is old, if the clocks of its machine and this one agree."""
        return run.alive_at < now_at() - self.patience

    def end(self, run: Run, state: str, exit_code: int | None, outcome: str, again_at: int | None) -> bool:
        """Write how a run ended, and end what asked for it unless it is tried again; False if it has ended before."""
        values = {
            "state": state,
            "exit_code": exit_code,
            "outcome": outcome,
            "again_at": again_at,
            "ended_at": now_at(),
        }
        with transaction(self.engine) as connection:
            is_mine = bool(connection.execute(update(RUNS).where(_is_open(run)).values(values)).rowcount)
            if is_mine and again_at is None and run.asked_id is not None:
                jobs.end(connection, run.asked_id, outcome)
        return is_mine

    def lose(self, run: Run, reason: str) -> Lost | None:
        """Write that an open run was lost, which is run again, once; None if somebody else has, or it has ended."""
        with transaction(self.engine) as connection:
            is_first = _count(connection, run, LOST) == 0
        # no later than now, whatever the clock of its machine said
        again_at = min(run.alive_at, now_at()) if is_first and run.cause != ONCE else None
        return Lost(again_at is not None) if self.end(run, LOST, None, reason, again_at) else None

    def miss(self, job: str, due_at: int, reason: str) -> bool:
        """Write that a due moment was too long ago; False if somebody else has."""
        row = self._row(job, DUE, due_at, 1, MISSED) | {"ended_at": now_at(), "outcome": reason}
        with transaction(self.engine) as connection:
            made = insert_or(connection, RUNS).values(row).on_conflict_do_nothing().returning(RUNS.c.run_id)
            return connection.execute(made).first() is not None

    def drop(self, run: Run, reason: str) -> bool:
        """Write that a run is not tried again after all; False if somebody else has."""
        is_owed = (RUNS.c.run_id == run.run_id) & RUNS.c.again_at.is_not(None)
        with transaction(self.engine) as connection:
            is_mine = bool(connection.execute(update(RUNS).where(is_owed).values(again_at=None)).rowcount)
            if is_mine and run.asked_id is not None:
                jobs.end(connection, run.asked_id, reason)
        return is_mine

    def count_failures(self, run: Run) -> int:
        """Return how often the run's due moment has failed so far; what was lost does not count."""
        with transaction(self.engine) as connection:
            return _count(connection, run, FAILED)

    def latest(self) -> dict[tuple[str, str], int]:
        """Return when each job last ended in each state, for any scheduler."""
        wanted = select(RUNS.c.job, RUNS.c.state, func.max(RUNS.c.ended_at)).where(RUNS.c.ended_at.is_not(None))
        with transaction(self.engine) as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(wanted.group_by(RUNS.c.job, RUNS.c.state))}

    def forget_before(self, at: int) -> int:
        """Delete what ended before then, except what tells which due moment was a job's latest; returns how many."""
        newest = select(func.max(RUNS.c.due_at)).where(_was_due(now_at())).group_by(RUNS.c.job)
        is_old = (RUNS.c.ended_at < at) & RUNS.c.again_at.is_(None) & RUNS.c.due_at.not_in(newest)
        with transaction(self.engine) as connection:
            return connection.execute(delete(RUNS).where(is_old)).rowcount

    def end_strange(self, models: Sequence[str]) -> list[str]:
        """End the retrainings of models that no job retrains; returns these models."""
        now, strange = now_at(), []
        with transaction(self.engine) as connection:
            for asked in jobs.waiting_retrainings(connection, now - self.patience):
                if asked.model not in models and jobs.take(connection, asked.job_id, now - self.patience):
                    jobs.end(connection, asked.job_id, f"not run: no job of the schedule retrains '{asked.model}'")
                    strange.append(asked.model)
        return strange

    def count_waiting(self) -> int:
        """Return how many retrainings wait."""
        with transaction(self.engine) as connection:
            return len(jobs.waiting_retrainings(connection, now_at() - self.patience))

    def _row(self, job: str, cause: str, due_at: int, attempt: int, state: str) -> dict[str, object]:
        now = now_at()
        return {
            "job": job,
            "cause": cause,
            "due_at": due_at,
            "attempt": attempt,
            "state": state,
            "started_at": now,
            "alive_at": now,
            "place": self.place,
        }


def _is_open(run: Run) -> ColumnElement[bool]:
    return (RUNS.c.run_id == run.run_id) & RUNS.c.ended_at.is_(None)


def _was_due(now: int) -> ColumnElement[bool]:
    # what is of a later time was written before the clock was set back
    return (RUNS.c.cause == DUE) & (RUNS.c.due_at <= now)


def _count(connection: Connection, run: Run, state: str) -> int:
    same = (RUNS.c.job == run.job) & (RUNS.c.due_at == run.due_at) & (RUNS.c.state == state)
    return connection.execute(select(func.count()).where(same)).scalar_one()
