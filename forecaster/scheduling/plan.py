"""What is to be done next for a job, decided from what the database knows of it; nothing is done here."""

from dataclasses import dataclass, field
from datetime import timedelta

from forecaster.domain.exits import BAD_CONFIG, TRAINING_FAILED
from forecaster.domain.instants import SECOND, as_at, as_moment
from forecaster.scheduling.config import RETRAIN, JobConfig, RetryConfig
from forecaster.scheduling.runs import ASKED, DUE, Known, Run


@dataclass(frozen=True)
class Start:
    """A run to be claimed; the retries that it takes the place of are dropped."""

    cause: str
    due_at: int
    attempt: int = 1
    asked_id: int | None = None
    follows: int | None = None
    drops: tuple[Run, ...] = field(default=())


@dataclass(frozen=True)
class Miss:
    """A due moment that is too long ago."""

    due_at: int


@dataclass(frozen=True)
class Drop:
    """A retry, or the repetition of a lost run, that comes too late."""

    run: Run


def next_step(job: JobConfig, known: Known, now: int, catch_up: timedelta) -> Start | Miss | Drop | None:
    """Return what is to be done now, None if nothing is.

    Of several due moments the latest counts, so that what was missed is run once; it takes the place of retries of
    earlier ones. Then come retries, then what was asked for.

    Args:
        job: the job; it does not run just now.
        known: its runs.
        now: microseconds since 1970.
        catch_up: how late a run may begin.
    """
    too_old = now - catch_up // timedelta(microseconds=1)
    due = job.when.latest(as_moment(known.last_due_at), as_moment(now)) if job.when else None
    if due is not None:
        due_at = as_at(due)
        if due_at < too_old:
            return Miss(due_at)
        return Start(DUE, due_at, drops=tuple(run for run in known.owed if run.cause == DUE))
    for run in known.owed:
        # one that ended later than now did so before the clock was set back, and has waited
        if run.again_at is None or run.ended_at is None or run.ended_at <= now < run.again_at:
            continue
        if run.again_at < too_old:
            return Drop(run)
        return Start(run.cause, run.due_at, run.attempt + 1, run.asked_id, follows=run.run_id)
    if known.asked and not any(run.cause == ASKED for run in known.owed):
        first = known.asked[0]
        return Start(ASKED, first.asked_at, asked_id=first.job_id)
    return None


def again_at(job: JobConfig, retry: RetryConfig, exit_code: int | None, failures: int, now: int) -> int | None:
    """Return when a run that failed is tried again, None where that cannot help or was done often enough.

    Args:
        job: whose run it is.
        retry: how often it may be tried.
        exit_code: how it ended; None if it did not start.
        failures: of this due moment, this one included.
        now: microseconds since 1970.
    """
    if exit_code == BAD_CONFIG or (job.run == RETRAIN and exit_code == TRAINING_FAILED) or failures >= retry.attempts:
        return None
    return now + int(retry.delay_seconds(failures) * SECOND)
