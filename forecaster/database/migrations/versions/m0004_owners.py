"""Add owners to keys, forecasts, actuals and scores; add running sums; delete the scores of deleted forecasts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from forecaster.domain import sums
from forecaster.domain.instants import DAY

revision = "0004"
down_revision = "0003"

_SCORES = sa.table(
    "scores",
    *(
        sa.column(name)
        for name in (
            "owner", "model", "version", "unique_id", "step", "at", "is_shadow", "forecast_by",
            "error", "naive_error", "is_inside_80", "is_inside_95",
        )
    ),
)  # fmt: skip


def upgrade() -> None:
    """Add an owner to each row, and fill the tables of running sums from the scores."""
    _add_owners()
    _add_owner_to_actuals()
    _create_sum_tables()
    _sum_days()
    _sum_times()


def _owner(**changes: Any) -> sa.Column[str]:
    return sa.Column("owner", sa.String(length=200), nullable=False, **changes)


def _add_owners() -> None:
    """Set each row's owner to the name of the key that made the request."""
    for table in ("keys", "requests", "forecasts", "scores"):
        op.add_column(table, _owner(server_default=""))
    op.execute("UPDATE keys SET owner = name")
    op.execute(
        "UPDATE requests SET owner = COALESCE((SELECT name FROM keys WHERE key_id = requests.client), client) "
        "WHERE client <> ''"
    )
    # keys with the same name may have used the same idempotency key
    op.execute(
        "UPDATE requests SET idempotency_key = NULL, body_digest = NULL WHERE idempotency_key IS NOT NULL AND "
        "request_id NOT IN "
        "(SELECT MAX(request_id) FROM requests WHERE idempotency_key IS NOT NULL GROUP BY owner, idempotency_key)"
    )
    with op.batch_alter_table("requests") as requests:
        requests.drop_constraint("one_answer_per_idempotency_key", type_="unique")
        requests.create_unique_constraint("one_answer_per_idempotency_key", ["owner", "idempotency_key"])
    op.execute("DELETE FROM scores WHERE forecast_id NOT IN (SELECT forecast_id FROM forecasts)")
    # larger errors are clipped to this value since this revision
    for error in ("error", "naive_error"):
        op.execute(
            f"UPDATE scores SET {error} = CASE WHEN {error} > 0 THEN 1e150 ELSE -1e150 END "  # noqa: S608
            f"WHERE {error} > 1e150 OR {error} < -1e150"
        )
    op.execute(
        "UPDATE forecasts SET owner = (SELECT owner FROM requests WHERE request_id = forecasts.request_id) "
        "WHERE request_id IN (SELECT request_id FROM requests WHERE owner <> '')"
    )
    op.execute(
        "UPDATE scores SET owner = (SELECT owner FROM forecasts WHERE forecast_id = scores.forecast_id) "
        "WHERE forecast_id IN (SELECT forecast_id FROM forecasts WHERE owner <> '')"
    )
    op.drop_index("forecasts_of_series", "forecasts")
    op.create_index("forecasts_of_series", "forecasts", ["unique_id", "owner", "last_at"], unique=False)


def _add_owner_to_actuals() -> None:
    """Copy each series' actuals to every owner who has forecasts of it, or to the empty owner if nobody has."""
    op.rename_table("actuals", "actuals_of_all")
    op.create_table(
        "actuals",
        _owner(),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("y", sa.Float(precision=53), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "unique_id", "at"),
    )
    op.execute(
        "INSERT INTO actuals (owner, unique_id, at, y, received_at) "
        "SELECT COALESCE(asked.owner, ''), a.unique_id, a.at, a.y, a.received_at FROM actuals_of_all a "
        "LEFT JOIN (SELECT DISTINCT owner, unique_id FROM forecasts) asked ON asked.unique_id = a.unique_id"
    )
    op.drop_table("actuals_of_all")


def _create_sum_tables() -> None:
    op.create_table(
        "days",
        _owner(),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("n_scores", sa.Integer(), nullable=False),
        sa.Column("absolute", sa.Text(), nullable=False),
        sa.Column("naive", sa.Text(), nullable=False),
        sa.Column("signed", sa.Text(), nullable=False),
        sa.Column("n_80", sa.Integer(), nullable=False),
        sa.Column("inside_80", sa.Integer(), nullable=False),
        sa.Column("n_95", sa.Integer(), nullable=False),
        sa.Column("inside_95", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "model", "version", "day"),
    )
    op.create_table(
        "times",
        _owner(),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("n_scores", sa.Integer(), nullable=False),
        sa.Column("inside_80", sa.Integer(), nullable=False),
        sa.Column("inside_95", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "unique_id", "at", "model", "version", "step"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "steps",
        _owner(),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("unique_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("n_times", sa.Integer(), nullable=False),
        sa.Column("inside_80", sa.Float(precision=53), nullable=False),
        sa.Column("inside_95", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("owner", "model", "version", "unique_id", "step"),
    )


def _sum_days() -> None:
    c = _SCORES.c
    query = sa.select(
        c.owner, c.model, c.version, c["at"], c.error, c.naive_error, c.is_inside_80, c.is_inside_95
    ).where(sa.not_(c.is_shadow), c.forecast_by == "model")
    days: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    empty = dict.fromkeys(("n_scores", "n_80", "inside_80", "n_95", "inside_95"), 0)
    for row in op.get_bind().execute(query.execution_options(yield_per=10_000)):
        sum_ = days.setdefault(
            (row.owner, row.model, row.version, row.at // DAY), {**empty, "absolute": [], "naive": [], "signed": []}
        )
        sum_["n_scores"] += 1
        for name, value in (
            ("absolute", abs(row.error)), ("naive", abs(row.naive_error)), ("signed", row.error)
        ):  # fmt: skip
            sum_[name] = sums.add(sum_[name], [value])
        for level, is_inside in (("80", row.is_inside_80), ("95", row.is_inside_95)):
            if is_inside is not None:
                sum_[f"n_{level}"] += 1
                sum_[f"inside_{level}"] += is_inside
    rows = [
        dict(zip(("owner", "model", "version", "day"), key, strict=True))
        | {name: sums.dumps(value) if isinstance(value, list) else value for name, value in sum_.items()}
        for key, sum_ in days.items()
    ]
    if rows:
        table = sa.table("days", *(sa.column(name) for name in rows[0]))
        op.bulk_insert(table, rows)


def _sum_times() -> None:
    op.execute(
        "INSERT INTO times (owner, unique_id, at, model, version, step, n_scores, inside_80, inside_95) "
        "SELECT owner, unique_id, at, model, version, step, COUNT(*), SUM(is_inside_80), SUM(is_inside_95) FROM scores "
        "WHERE NOT is_shadow AND forecast_by = 'model' AND is_inside_80 IS NOT NULL AND is_inside_95 IS NOT NULL "
        "GROUP BY owner, unique_id, at, model, version, step"
    )
    op.execute(
        "INSERT INTO steps (owner, model, version, unique_id, step, n_times, inside_80, inside_95) "
        "SELECT owner, model, version, unique_id, step, COUNT(*), "
        "SUM(inside_80 * 1.0 / n_scores), SUM(inside_95 * 1.0 / n_scores) FROM times "
        "GROUP BY owner, model, version, unique_id, step"
    )
