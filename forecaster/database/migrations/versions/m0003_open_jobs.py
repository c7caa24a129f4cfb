"""Allow one open job of each kind for each model; store a score's step as an integer, not a small integer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Close all but the first of a model's open jobs, forbid a second one, and widen the column `step`."""
    op.execute(
        "UPDATE jobs SET ended_at = asked_at, outcome = 'asked twice' WHERE ended_at IS NULL AND job_id NOT IN "
        "(SELECT MIN(job_id) FROM jobs WHERE ended_at IS NULL GROUP BY kind, model)"
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "one_open_job_per_model", "jobs", ["kind", "model"],
        unique=True, sqlite_where=is_open, postgresql_where=is_open,
    )  # fmt: skip
    with op.batch_alter_table("scores") as scores:
        scores.alter_column("step", existing_type=sa.SmallInteger(), type_=sa.Integer(), existing_nullable=False)
