"""The runs of jobs in the database: claimed by one scheduler, kept alive by heartbeats, finished, lost or retried.

Two constraints coordinate schedulers on any database: a job has one run for each due time and attempt, and a job has
at most one run that has not ended.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, select, update

from forecaster.database import retraining
from forecaster.database.engine import dialect_insert, transaction
from forecaster.database.retraining import RetrainRequest
from forecaster.database.tables import RUNS
from forecaster.domain.instants import SECOND, now_microseconds

# causes
DUE, ASKED, ONCE = "due", "asked", "once"
# states
RUNNING, SUCCEEDED, FAILED, LOST, MISSED, ADDED = "running", "succeeded", "failed", "lost", "missed", "added"


@dataclass(frozen=True)
class Run:
    """An attempt, as a row of the table `runs`; instants are microseconds since 1970."""

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
class JobState:
    """The state of a job in the database.

    Args:
        last_due_at: the latest due time that was run or missed, or when the job was first seen.
        retries: the ended runs that are to be retried, the oldest first.
        open_run: the run that has not ended.
        requests: the retraining requests that wait for the job.
    """

    last_due_at: int
    retries: tuple[Run, ...]
    open_run: Run | None
    requests: tuple[RetrainRequest, ...]


@dataclass(frozen=True)
class LostRun:
    """A run that was lost, and whether it is retried."""

    is_retried: bool


@dataclass(frozen=True)
class _Silence:
    """For how long a run's heartbeat has not changed; `read_at` is a time of the monotonic clock."""

    run_id: int
    alive_at: int
    seconds: float
    read_at: float


class Runs:
    """The table `runs`, as used by the schedulers of one place.

    Args:
        engine: the engine of the database.
        place: machine and folder; schedulers at the same place see each other's locks.
        lost_after_seconds: a run of another place is lost after this time without a heartbeat.
    """

    def __init__(self, engine: Engine, place: str, lost_after_seconds: float) -> None:
        self.engine = engine
        self.place = place
        self.lost_after = int(lost_after_seconds * SECOND)
        self.heartbeat_seconds = lost_after_seconds / 10
        self._silences: dict[str, _Silence] = {}

    def read_state(self, job: str, model: str | None) -> JobState:
        """Return the state of a job. A new job is added; what was due before that does not run.

        Args:
            job: the name of the job.
            model: the model that the job retrains on request; None if it serves no requests.
        """
        now = now_microseconds()
        with transaction(self.engine) as connection:
            last = connection.execute(select(func.max(RUNS.c.due_at)).where(RUNS.c.job == job, _was_due(now))).scalar()
            if last is None:
                added = self._row(job, DUE, now, 1, ADDED) | {"ended_at": now}
                connection.execute(dialect_insert(connection, RUNS).values(added).on_conflict_do_nothing())
            is_unfinished = RUNS.c.ended_at.is_(None) | RUNS.c.again_at.is_not(None)
            query = select(RUNS).where(RUNS.c.job == job, is_unfinished).order_by(RUNS.c.due_at)
            rows = connection.execute(query).all()
            requests = retraining.open_requests(connection, now - self.lost_after, model) if model else []
        runs = [Run(**row._mapping) for row in rows]
        return JobState(
            now if last is None else last,
            tuple(run for run in runs if run.ended_at is not None),
            next((run for run in runs if run.ended_at is None), None),
            tuple(requests),
        )

    def claim(
        self,
        job: str,
        cause: str,
        due_at: int,
        attempt: int = 1,
        request_id: int | None = None,
        retry_of: int | None = None,
        replaces: Sequence[Run] = (),
    ) -> Run | None:
        """Start a run; return None if another scheduler has started it.

        Args:
            job: the name of the job.
            cause: `DUE`, `ASKED` or `ONCE`.
            due_at: the due time.
            attempt: the number of the attempt, from 1.
            request_id: the retraining request, which the first attempt claims.
            retry_of: the id of the run that this attempt retries.
            replaces: runs whose retries this run makes superfluous.
        """
        row = self._row(job, cause, due_at, attempt, RUNNING) | {"asked_id": request_id}
        with transaction(self.engine) as connection:
            # before the run is inserted: an abandoned request can only be claimed while it has no run
            if (
                request_id is not None
                and retry_of is None
                and not retraining.claim_request(connection, request_id, now_microseconds() - self.lost_after)
            ):
                return None
            inserted = dialect_insert(connection, RUNS).values(row).on_conflict_do_nothing().returning(*RUNS.c)
            claimed = connection.execute(inserted).first()
            if claimed is None:
                connection.rollback()
                return None
            settled = [run.run_id for run in replaces] + ([retry_of] if retry_of is not None else [])
            connection.execute(update(RUNS).where(RUNS.c.run_id.in_(settled)).values(again_at=None))
        return Run(**claimed._mapping)

    def send_heartbeat(self, run: Run) -> None:
        """Record that a run is still running."""
        with transaction(self.engine) as connection:
            connection.execute(update(RUNS).where(_is_open(run)).values(alive_at=now_microseconds()))

    def is_lost(self, run: Run) -> bool:
        """Return whether the process of an open run is gone. The caller holds the job's lock and has just read the run.

        A run of this place is lost, because its process would hold the lock. A run of another place is lost after
        `lost_after_seconds` without a heartbeat. That time is measured here, because the clocks of machines differ.
        Between two reads at most one heartbeat interval counts, because the database may have been down for both.
        """
        if run.place == self.place:
            return True
        now, last = time.monotonic(), self._silences.get(run.job)
        is_silent = last is not None and (last.run_id, last.alive_at) == (run.run_id, run.alive_at)
        seconds = last.seconds + min(now - last.read_at, self.heartbeat_seconds) if last and is_silent else 0.0
        self._silences[run.job] = _Silence(run.run_id, run.alive_at, seconds, now)
        return seconds * SECOND >= self.lost_after

    def seems_lost(self, run: Run) -> bool:
        """Return whether an open run's last heartbeat is too old, if the clocks of both machines agree."""
        return run.alive_at < now_microseconds() - self.lost_after

    def finish(self, run: Run, state: str, exit_code: int | None, outcome: str, again_at: int | None) -> bool:
        """Record how a run ended, and close its retraining request unless the run is retried.

        Args:
            run: an open run.
            state: `SUCCEEDED`, `FAILED` or `LOST`.
            exit_code: the exit code of its process; None if it could not be started or was lost.
            outcome: the outcome, as text.
            again_at: when to retry, microseconds since 1970; None for never.

        Returns:
            False if the run was recorded as ended before.
        """
        values = {
            "state": state,
            "exit_code": exit_code,
            "outcome": outcome,
            "again_at": again_at,
            "ended_at": now_microseconds(),
        }
        with transaction(self.engine) as connection:
            was_open = bool(connection.execute(update(RUNS).where(_is_open(run)).values(values)).rowcount)
            if was_open and again_at is None and run.asked_id is not None:
                retraining.close_request(connection, run.asked_id, outcome)
        return was_open

    def mark_lost(self, run: Run, reason: str) -> LostRun | None:
        """Record that an open run was lost; it is retried once. Return None if the run was recorded as ended before."""
        with transaction(self.engine) as connection:
            is_first = _count(connection, run, LOST) == 0
        # not in the future, even if the clock of its machine is ahead
        again_at = min(run.alive_at, now_microseconds()) if is_first and run.cause != ONCE else None
        return LostRun(again_at is not None) if self.finish(run, LOST, None, reason, again_at) else None

    def record_missed(self, job: str, due_at: int, reason: str) -> bool:
        """Record that a due time was missed; return False if another scheduler has recorded it."""
        row = self._row(job, DUE, due_at, 1, MISSED) | {"ended_at": now_microseconds(), "outcome": reason}
        with transaction(self.engine) as connection:
            inserted = dialect_insert(connection, RUNS).values(row).on_conflict_do_nothing().returning(RUNS.c.run_id)
            return connection.execute(inserted).first() is not None

    def drop_retry(self, run: Run, reason: str) -> bool:
        """Record that a run is not retried after all; return False if another scheduler has recorded it."""
        awaits_retry = (RUNS.c.run_id == run.run_id) & RUNS.c.again_at.is_not(None)
        with transaction(self.engine) as connection:
            was_dropped = bool(connection.execute(update(RUNS).where(awaits_retry).values(again_at=None)).rowcount)
            if was_dropped and run.asked_id is not None:
                retraining.close_request(connection, run.asked_id, reason)
        return was_dropped

    def count_failures(self, run: Run) -> int:
        """Return how many attempts at the run's due time have failed; lost runs do not count."""
        with transaction(self.engine) as connection:
            return _count(connection, run, FAILED)

    def last_ends(self) -> dict[tuple[str, str], int]:
        """Return by job and state when a run last ended, microseconds since 1970, whichever scheduler ran it."""
        query = select(RUNS.c.job, RUNS.c.state, func.max(RUNS.c.ended_at)).where(RUNS.c.ended_at.is_not(None))
        with transaction(self.engine) as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(query.group_by(RUNS.c.job, RUNS.c.state))}

    def delete_before(self, at: int) -> int:
        """Delete runs that ended before a moment, except the latest due run of each job; return their number."""
        newest = select(func.max(RUNS.c.due_at)).where(_was_due(now_microseconds())).group_by(RUNS.c.job)
        is_old = (RUNS.c.ended_at < at) & RUNS.c.again_at.is_(None) & RUNS.c.due_at.not_in(newest)
        with transaction(self.engine) as connection:
            return connection.execute(delete(RUNS).where(is_old)).rowcount

    def close_unserved_requests(self, models: Sequence[str]) -> list[str]:
        """Close the retraining requests for models that no job retrains; return these models.

        Args:
            models: the models that jobs retrain.
        """
        claimed_before, unserved = now_microseconds() - self.lost_after, []
        with transaction(self.engine) as connection:
            for request in retraining.open_requests(connection, claimed_before):
                if request.model not in models and retraining.claim_request(connection, request.job_id, claimed_before):
                    outcome = f"not run: no job of the schedule retrains '{request.model}'"
                    retraining.close_request(connection, request.job_id, outcome)
                    unserved.append(request.model)
        return unserved

    def count_requests(self) -> int:
        """Return how many retraining requests wait."""
        with transaction(self.engine) as connection:
            return len(retraining.open_requests(connection, now_microseconds() - self.lost_after))

    def _row(self, job: str, cause: str, due_at: int, attempt: int, state: str) -> dict[str, object]:
        now = now_microseconds()
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
    # a later due time was recorded before the clock was set back
    return (RUNS.c.cause == DUE) & (RUNS.c.due_at <= now)


def _count(connection: Connection, run: Run, state: str) -> int:
    same = (RUNS.c.job == run.job) & (RUNS.c.due_at == run.due_at) & (RUNS.c.state == state)
    return connection.execute(select(func.count()).where(same)).scalar_one()
