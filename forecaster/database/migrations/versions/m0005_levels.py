"""Key intervals by level, instead of columns that are named after the levels 80 and 95."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_SCORE = "forecast_id, step, owner, at, model, version, is_shadow, forecast_by, unique_id, error, naive_error"
_DAY = "owner, model, version, day"
_TIME = "owner, unique_id, at, model, version, step"
_STEP = "owner, model, version, unique_id, step"
# as `ledger/outcomes.py` writes it
_OUTCOMES = (
    "'{\"80\":' || COALESCE(CAST(is_inside_80 AS TEXT), 'null') || "
    "',\"95\":' || COALESCE(CAST(is_inside_95 AS TEXT), 'null') || '}'"
)


def upgrade() -> None:
    """Name the levels of each forecast's bounds, and turn the levels' columns into rows."""
    op.add_column("forecasts", sa.Column("levels", sa.Text(), nullable=False, server_default="80,95"))
    _join_outcomes()
    _split_days()
    _split_times()
    _split_steps()


def _join_outcomes() -> None:
    _replace_table(
        "scores",
        sa.Column("forecast_id", sa.String(length=48), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False, server_default=""),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_shadow", sa.Boolean(), nullable=False),
        sa.Column("forecast_by", sa.String(length=32), nullable=False),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("error", sa.Float(precision=53), nullable=False),
        sa.Column("naive_error", sa.Float(precision=53), nullable=False),
        sa.Column("is_inside", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("forecast_id", "step"),
        rows=f"INSERT INTO scores ({_SCORE}, is_inside) SELECT {_SCORE}, {_OUTCOMES} FROM old_scores",  # noqa: S608
    )
    op.create_index("scores_of_model", "scores", ["model", "at"], unique=False)
    op.create_index("scores_of_series", "scores", ["unique_id", "at"], unique=False)


def _split_days() -> None:
    op.create_table(
        "day_levels",
        _owner(),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        _level(),
        sa.Column("n_scores", sa.Integer(), nullable=False),
        sa.Column("inside", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "model", "version", "day", "level"),
    )
    for level in (80, 95):
        op.execute(
            f"INSERT INTO day_levels ({_DAY}, level, n_scores, inside) "  # noqa: S608
            f"SELECT {_DAY}, {level}, n_{level}, inside_{level} FROM days WHERE n_{level} > 0"
        )
    with op.batch_alter_table("days") as days:
        for name in ("n_80", "inside_80", "n_95", "inside_95"):
            days.drop_column(name)


def _split_times() -> None:
    _replace_table(
        "times",
        _owner(),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        _level(),
        sa.Column("n_scores", sa.Integer(), nullable=False),
        sa.Column("inside", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "unique_id", "at", "model", "version", "step", "level"),
        sqlite_with_rowid=False,
        rows=f"INSERT INTO times ({_TIME}, level, n_scores, inside) "  # noqa: S608
        f"SELECT {_TIME}, 80, n_scores, inside_80 FROM old_times "
        f"UNION ALL SELECT {_TIME}, 95, n_scores, inside_95 FROM old_times",
    )


def _split_steps() -> None:
    _replace_table(
        "steps",
        _owner(),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        _level(),
        sa.Column("n_times", sa.Integer(), nullable=False),
        sa.Column("inside", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("owner", "model", "version", "unique_id", "step", "level"),
        rows=f"INSERT INTO steps ({_STEP}, level, n_times, inside) "  # noqa: S608
        f"SELECT {_STEP}, 80, n_times, inside_80 FROM old_steps "
        f"UNION ALL SELECT {_STEP}, 95, n_times, inside_95 FROM old_steps",
    )


def _owner() -> sa.Column[str]:
    return sa.Column("owner", sa.String(length=200), nullable=False)


def _level() -> sa.Column[float]:
    return sa.Column("level", sa.Float(precision=53), nullable=False)


def _replace_table(name: str, *columns: Any, rows: str, **options: Any) -> None:
    """Create a table in place of another, filled by the statement `rows` from the table `old_…`."""
    op.rename_table(name, f"old_{name}")
    op.create_table(name, *columns, **options)
    op.execute(rows)
    op.drop_table(f"old_{name}")
