"""Key intervals by level instead of naming columns after the levels 80 and 95."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# one day's, one time's or one step's sums at a level, from a table that has a column for each level
_SPLIT = (
    "INSERT INTO {target} ({keys}, level, {count}, inside) "
    "SELECT {keys}, 80, {count_80}, inside_80 FROM {source} WHERE {count_80} > 0 "
    "UNION ALL SELECT {keys}, 95, {count_95}, inside_95 FROM {source} WHERE {count_95} > 0"
)
_DAY_KEYS = "owner, model, version, day"
_TIME_KEYS = "owner, unique_id, at, model, version, step"
_STEP_KEYS = "owner, model, version, unique_id, step"


def upgrade() -> None:
    """Name the levels of each forecast's bounds, and turn columns for levels into rows."""
    op.add_column("forecasts", sa.Column("levels", sa.Text(), nullable=False, server_default="80,95"))
    _join_outcomes()
    _split_days()
    _split_times()
    _split_steps()


def _join_outcomes() -> None:
    op.add_column("scores", sa.Column("is_inside", sa.Text(), nullable=True))
    # as `ledger/outcomes.py` writes it
    op.execute(
        "UPDATE scores SET is_inside = '{\"80\":' || COALESCE(CAST(is_inside_80 AS TEXT), 'null') "
        "|| ',\"95\":' || COALESCE(CAST(is_inside_95 AS TEXT), 'null') || '}'"
    )
    with op.batch_alter_table("scores") as scores:
        scores.alter_column("is_inside", existing_type=sa.Text(), nullable=False)
        scores.drop_column("is_inside_80")
        scores.drop_column("is_inside_95")


def _owner_column() -> sa.Column[str]:
    return sa.Column("owner", sa.String(length=200), nullable=False)


def _split_days() -> None:
    op.create_table(
        "day_levels",
        _owner_column(),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("level", sa.Float(precision=53), nullable=False),
        sa.Column("n_scores", sa.Integer(), nullable=False),
        sa.Column("inside", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "model", "version", "day", "level"),
    )
    _split("days", "day_levels", _DAY_KEYS, "n_scores", "n_80", "n_95")
    with op.batch_alter_table("days") as days:
        for name in ("n_80", "inside_80", "n_95", "inside_95"):
            days.drop_column(name)


def _split_times() -> None:
    op.rename_table("times", "times_of_all_levels")
    op.create_table(
        "times",
        _owner_column(),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("level", sa.Float(precision=53), nullable=False),
        sa.Column("n_scores", sa.Integer(), nullable=False),
        sa.Column("inside", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "unique_id", "at", "model", "version", "step", "level"),
        sqlite_with_rowid=False,
    )
    _split("times_of_all_levels", "times", _TIME_KEYS, "n_scores", "n_scores", "n_scores")
    op.drop_table("times_of_all_levels")


def _split_steps() -> None:
    op.rename_table("steps", "steps_of_all_levels")
    op.create_table(
        "steps",
        _owner_column(),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("level", sa.Float(precision=53), nullable=False),
        sa.Column("n_times", sa.Integer(), nullable=False),
        sa.Column("inside", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("owner", "model", "version", "unique_id", "step", "level"),
    )
    _split("steps_of_all_levels", "steps", _STEP_KEYS, "n_times", "n_times", "n_times")
    op.drop_table("steps_of_all_levels")


def _split(source: str, target: str, keys: str, count: str, count_80: str, count_95: str) -> None:
    op.execute(
        _SPLIT.format(source=source, target=target, keys=keys, count=count, count_80=count_80, count_95=count_95)
    )
