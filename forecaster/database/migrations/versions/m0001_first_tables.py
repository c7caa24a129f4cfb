"""The first tables: requests, forecasts, actuals, scores, keys, jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "actuals",
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("y", sa.Float(precision=53), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("unique_id", "at"),
    )
    op.create_table(
        "forecasts",
        sa.Column("forecast_id", sa.String(length=48), nullable=False),
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_shadow", sa.Boolean(), nullable=False),
        sa.Column("forecast_by", sa.String(length=32), nullable=False),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("last_value", sa.Float(precision=53), nullable=False),
        sa.Column("tolerance", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("forecast_id"),
    )
    op.create_index("forecasts_of_model", "forecasts", ["model", "answered_at"], unique=False)
    op.create_index("forecasts_of_request", "forecasts", ["request_id"], unique=False)
    op.create_index("forecasts_of_series", "forecasts", ["unique_id", "last_at"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index("jobs_of_model", "jobs", ["model", "kind"], unique=False)
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("scopes", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=False),
        sa.Column("client", sa.String(length=32), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("body_digest", sa.String(length=64), nullable=True),
        sa.Column("head", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("request_id"),
        sa.UniqueConstraint("client", "idempotency_key", name="one_answer_per_idempotency_key"),
    )
    op.create_table(
        "scores",
        sa.Column("forecast_id", sa.String(length=48), nullable=False),
        sa.Column("step", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_shadow", sa.Boolean(), nullable=False),
        sa.Column("forecast_by", sa.String(length=32), nullable=False),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("error", sa.Float(precision=53), nullable=False),
        sa.Column("naive_error", sa.Float(precision=53), nullable=False),
        sa.Column("is_inside_80", sa.SmallInteger(), nullable=True),
        sa.Column("is_inside_95", sa.SmallInteger(), nullable=True),
        sa.PrimaryKeyConstraint("forecast_id", "step"),
    )
    op.create_index("scores_of_model", "scores", ["model", "at"], unique=False)
    op.create_index("scores_of_series", "scores", ["unique_id", "at"], unique=False)
