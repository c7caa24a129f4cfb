"""Decide the next step for a job from its state in the database. Nothing is carried out here."""

from dataclasses import dataclass
from datetime import timedelta

from forecaster.domain.exits import BAD_CONFIG, TRAINING_FAILED
from forecaster.domain.instants import SECOND, from_microseconds, to_microseconds
from forecaster.scheduling.config import RETRAIN, JobConfig, RetryConfig
from forecaster.scheduling.runs import ASKED, DUE, JobState, Run


@dataclass(frozen=True)
class Start:
    """Start a run; the fields are the arguments of `Runs.claim`."""

    cause: str
    due_at: int
    attempt: int = 1
    request_id: int | None = None
    retry_of: int | None = None
    replaces: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Miss:
    """Record a due time as missed, because it is too long ago."""

    due_at: int


@dataclass(frozen=True)
class Drop:
    """Give up the retry of a run, because it is too long overdue."""

    run: Run


def next_step(job: JobConfig, state: JobState, now: int, catch_up: timedelta) -> Start | Miss | Drop | None:
    """Return the next step for a job, or None if nothing is due.

    Due times come first. Only the latest runs, so several missed due times give one run, which replaces the retries of
    earlier due times. Then come retries, then retraining requests.

    Args:
        job: a job that is not running.
        state: the job's state.
        now: microseconds since 1970.
        catch_up: how late a run may begin.
    """
    oldest = now - catch_up // timedelta(microseconds=1)
    due = job.when.latest(from_microseconds(state.last_due_at), from_microseconds(now)) if job.when else None
    if due is not None:
        due_at = to_microseconds(due)
        if due_at < oldest:
            return Miss(due_at)
        return Start(DUE, due_at, replaces=tuple(run for run in state.retries if run.cause == DUE))
    for run in state.retries:
        # a run that ended in the future did so before the clock was set back: its delay is over
        if run.again_at is None or run.ended_at is None or run.ended_at <= now < run.again_at:
            continue
        if run.again_at < oldest:
            return Drop(run)
        return Start(run.cause, run.due_at, run.attempt + 1, run.asked_id, retry_of=run.run_id)
    if state.requests and not any(run.cause == ASKED for run in state.retries):
        first = state.requests[0]
        return Start(ASKED, first.asked_at, request_id=first.job_id)
    return None


def retry_at(job: JobConfig, retry: RetryConfig, exit_code: int | None, failures: int, now: int) -> int | None:
    """Return when to retry a failed run, in microseconds since 1970; None if a retry cannot help or was the last.

    Args:
        job: the run's job.
        retry: how often to retry.
        exit_code: the exit code of the run's process; None if it could not be started.
        failures: failed attempts at the run's due time, including this one.
        now: microseconds since 1970.
    """
    if exit_code == BAD_CONFIG or (job.run == RETRAIN and exit_code == TRAINING_FAILED) or failures >= retry.attempts:
        return None
    return now + int(retry.delay_seconds(failures) * SECOND)
