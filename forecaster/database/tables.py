"""The tables. What changes here needs a migration, which a test holds against it.

Instants (`…_at`) are microseconds since 1970, in UTC; a series without zones has its own clock's, as it was sent.
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

# an answer to a client: what its forecasts have in common, as JSON
REQUESTS = Table(
    "requests",
    METADATA,
    Column("request_id", String(32), primary_key=True),
    Column("answered_at", BigInteger, nullable=False),
    # the key that asked, and its owner; both empty where no key is needed
    Column("client", String(32), nullable=False),
    Column("owner", String(200), nullable=False, server_default=""),
    Column("idempotency_key", String(255)),
    Column("body_digest", String(64)),
    Column("head", Text, nullable=False),
    UniqueConstraint("owner", "idempotency_key", name="one_answer_per_idempotency_key"),
)

# a series' forecast: as it was answered, and what it is scored by
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
    # of a challenger that answers unseen
    Column("is_shadow", Boolean, nullable=False),
    Column("forecast_by", String(32), nullable=False),
    Column("unique_id", String(200), nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("last_value", Float(53), nullable=False),
    # how far from a step's time, in microseconds, an actual may be and still be of it
    Column("tolerance", BigInteger, nullable=False),
    # (steps, 6) float64: microseconds since 1970, mean, lo-80, hi-80, lo-95, hi-95
    Column("steps", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Index("forecasts_of_request", "request_id"),
    Index("forecasts_of_series", "unique_id", "owner", "last_at"),
    Index("forecasts_of_model", "model", "answered_at"),
)

# the values that came, as each owner has them
ACTUALS = Table(
    "actuals",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("unique_id", String(200), primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("y", Float(53), nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

# a forecast's step beside its actual
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
    # of the last value
    Column("naive_error", Float(53), nullable=False),
    # 1 inside, 0 outside, null without an interval
    Column("is_inside_80", SmallInteger),
    Column("is_inside_95", SmallInteger),
    Index("scores_of_model", "model", "at"),
    Index("scores_of_series", "unique_id", "at"),
)

# Running sums of the scores of forecasts that the model made and its client saw, kept by `ledger/tallies.py` in the
# transaction that changes the scores: by day,
DAYS = Table(
    "days",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    # since 1970
    Column("day", Integer, primary_key=True),
    Column("n_scores", Integer, nullable=False),
    # of |error|, of |naive_error| and of error: floats as JSON whose sum is exact
    Column("absolute", Text, nullable=False),
    Column("naive", Text, nullable=False),
    Column("signed", Text, nullable=False),
    # how many have an interval, and how many of these are inside
    Column("n_80", Integer, nullable=False),
    Column("inside_80", Integer, nullable=False),
    Column("n_95", Integer, nullable=False),
    Column("inside_95", Integer, nullable=False),
)

# by the time that was forecast, from the same step perhaps often,
TIMES = Table(
    "times",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("unique_id", String(200), primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("n_scores", Integer, nullable=False),
    Column("inside_80", Integer, nullable=False),
    Column("inside_95", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# and by series and step, each time counting once
STEPS = Table(
    "steps",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("unique_id", String(200), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("n_times", Integer, nullable=False),
    # sums of the times' shares
    Column("inside_80", Float(53), nullable=False),
    Column("inside_95", Float(53), nullable=False),
)

# of API keys only a digest
KEYS = Table(
    "keys",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    # whose forecasts and actuals it sees; several keys may have one
    Column("owner", String(200), nullable=False, server_default=""),
    # with spaces between
    Column("scopes", String(200), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

# work that the service asks of the scheduler
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
# two services may see the same evidence
Index(
    "one_open_job_per_model",
    JOBS.c.kind,
    JOBS.c.model,
    unique=True,
    sqlite_where=JOBS.c.ended_at.is_(None),
    postgresql_where=JOBS.c.ended_at.is_(None),
)

# what the scheduler ran: one row for each attempt
RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", Integer, primary_key=True, autoincrement=True),
    Column("job", String(100), nullable=False),
    # due, asked (by a row of jobs), once (by a person)
    Column("cause", String(16), nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    # running, succeeded, failed, lost, missed; added: the job was first seen then, and nothing before it is owed
    Column("state", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    # when its scheduler last said that it goes on
    Column("alive_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("outcome", Text),
    # when it is to be tried again; null where it is not, or was
    Column("again_at", BigInteger),
    Column("asked_id", Integer),
    # which processes can tell by a lock whether it goes on
    Column("place", String(300), nullable=False),
    UniqueConstraint("job", "due_at", "attempt", name="one_run_per_due_attempt"),
)
# of a job one run at a time, whoever asks
Index(
    "one_open_run_per_job",
    RUNS.c.job,
    unique=True,
    sqlite_where=RUNS.c.ended_at.is_(None),
    postgresql_where=RUNS.c.ended_at.is_(None),
)
