"""The tables. Each change here needs a migration; a test compares the two.

Instants (`…_at`) are microseconds since 1970, in UTC. For a series without a time zone they are local times.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

# answered requests; `head` is the part of the answer that all its forecasts share, as JSON
REQUESTS = Table(
    "requests",
    METADATA,
    Column("request_id", String(32), primary_key=True),
    Column("answered_at", BigInteger, nullable=False),
    # the id of the API key, and its owner; both are empty if the service needs no key
    Column("client", String(32), nullable=False),
    Column("owner", String(200), nullable=False, server_default=""),
    Column("idempotency_key", String(255)),
    Column("body_digest", String(64)),
    Column("head", Text, nullable=False),
    UniqueConstraint("owner", "idempotency_key", name="one_answer_per_idempotency_key"),
)

# forecasts, one row for each series of a request: the answer, and what is needed to score it
FORECASTS = Table(
    "forecasts",
    METADATA,
    Column("forecast_id", String(48), primary_key=True),
    Column("request_id", String(32), nullable=False),
    Column("owner", String(200), nullable=False, server_default=""),
    Column("position", Integer, nullable=False),
    Column("answered_at", BigInteger, nullable=False),
    Column("model", String(250), nullable=False),
    Column("version", Integer, nullable=False),
    # made by a challenger in the shadow; the client never saw it
    Column("is_shadow", Boolean, nullable=False),
    Column("forecast_by", String(32), nullable=False),
    Column("unique_id", String(200), nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("last_value", Float(53), nullable=False),
    # an actual within this many microseconds of a step's time belongs to the step
    Column("tolerance", BigInteger, nullable=False),
    # (steps, 2 + 2 × levels) float64: microseconds since 1970, mean, each level's lower and upper bound
    Column("steps", LargeBinary, nullable=False),
    # the levels of the bounds in `steps`, separated by commas; the default is for rows from before this column
    Column("levels", Text, nullable=False, server_default="80,95"),
    Column("answer", Text, nullable=False),
    Index("forecasts_of_request", "request_id"),
    Index("forecasts_of_series", "unique_id", "owner", "last_at"),
    Index("forecasts_of_model", "model", "answered_at"),
)

# actuals, as each owner sent them
ACTUALS = Table(
    "actuals",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("unique_id", String(200), primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("y", Float(53), nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

# scores: the error of a forecast's step, once its actual is known
SCORES = Table(
    "scores",
    METADATA,
    Column("forecast_id", String(48), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("owner", String(200), nullable=False, server_default=""),
    Column("at", BigInteger, nullable=False),
    Column("model", String(250), nullable=False),
    Column("version", Integer, nullable=False),
    Column("is_shadow", Boolean, nullable=False),
    Column("forecast_by", String(32), nullable=False),
    Column("unique_id", String(200), nullable=False),
    Column("error", Float(53), nullable=False),
    # the error of the last value before the forecast, which is the naive forecast
    Column("naive_error", Float(53), nullable=False),
    # JSON object, by level: 1 if the actual is inside the interval, 0 if outside, null if there is no interval
    Column("is_inside", Text, nullable=False),
    Index("scores_of_model", "model", "at"),
    Index("scores_of_series", "unique_id", "at"),
)

# Running sums of the scores, updated by `ledger/running_sums.py` in the transaction that changes the scores. They
# exclude shadow forecasts and forecasts by a baseline.
# sums by day of the forecast time
DAYS = Table(
    "days",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    # days since 1970
    Column("day", Integer, primary_key=True),
    Column("n_scores", Integer, nullable=False),
    # sums of |error|, |naive_error| and error: JSON lists of floats that add up to the exact sum
    Column("absolute", Text, nullable=False),
    Column("naive", Text, nullable=False),
    Column("signed", Text, nullable=False),
)

# sums by day and level
DAY_LEVELS = Table(
    "day_levels",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("level", Float(53), primary_key=True),
    # scores with an interval of this level, and those whose actual is inside it
    Column("n_scores", Integer, nullable=False),
    Column("inside", Integer, nullable=False),
)

# sums by series, forecast time, step and level: a time may have been forecast several times from the same step
TIMES = Table(
    "times",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("unique_id", String(200), primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("level", Float(53), primary_key=True),
    Column("n_scores", Integer, nullable=False),
    Column("inside", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# sums by series, step and level, in which each forecast time counts once
STEPS = Table(
    "steps",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("unique_id", String(200), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("level", Float(53), primary_key=True),
    Column("n_times", Integer, nullable=False),
    # sum over the times of the share of scores that are inside
    Column("inside", Float(53), nullable=False),
)

# API keys: a digest, never the secret
KEYS = Table(
    "keys",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    # the key sees this owner's forecasts and actuals; keys may share an owner
    Column("owner", String(200), nullable=False, server_default=""),
    # separated by spaces
    Column("scopes", String(200), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

# work that the service requests from the scheduler
JOBS = Table(
    "jobs",
    METADATA,
    Column("job_id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("model", String(250), nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("taken_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", Text),
    Index("jobs_of_model", "model", "kind"),
)
# several services may find the same evidence at the same time
Index(
    "one_open_job_per_model",
    JOBS.c.kind,
    JOBS.c.model,
    unique=True,
    sqlite_where=JOBS.c.ended_at.is_(None),
    postgresql_where=JOBS.c.ended_at.is_(None),
)

# runs of the scheduler: one row for each attempt
RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", Integer, primary_key=True, autoincrement=True),
    Column("job", String(100), nullable=False),
    # due: on schedule; asked: requested in the table `jobs`; once: started by hand
    Column("cause", String(16), nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    # running, succeeded, failed, lost or missed; added: the job is new, and nothing before this moment is due
    Column("state", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    # the scheduler's last heartbeat for this run
    Column("alive_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("outcome", Text),
    # when to retry; null if the run is not retried, or was retried already
    Column("again_at", BigInteger),
    Column("asked_id", Integer),
    # machine and folder of the scheduler: processes at the same place can see the run's lock
    Column("place", String(300), nullable=False),
    UniqueConstraint("job", "due_at", "attempt", name="one_run_per_due_attempt"),
)
# a job has at most one open run, whatever started it
Index(
    "one_open_run_per_job",
    RUNS.c.job,
    unique=True,
    sqlite_where=RUNS.c.ended_at.is_(None),
    postgresql_where=RUNS.c.ended_at.is_(None),
)
