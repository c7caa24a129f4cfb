"""Scoring uses short transactions, so that the writer never waits long for the lock."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import ACTUALS, SCORES
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.writer import Writer
from tests.ledger.test_ledger import HOUR, count, entry, record, served


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path}/l.db", 60)
    upgrade_schema(engine)
    return engine


def write(engine: Engine, *forecasts: Any) -> None:
    writer = Writer(engine)
    writer.start()
    for forecast in forecasts:
        record(writer, entry(forecast))
    writer.stop()


def count_rows_by_transaction(engine: Engine) -> list[int]:
    """Return a list that is filled with the number of actuals and scores that each transaction writes."""
    rows = [0]

    @event.listens_for(engine, "after_cursor_execute")
    def _count(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, is_many: bool) -> None:
        if statement.startswith(("INSERT INTO scores", "INSERT INTO actuals")):
            rows[-1] += len(parameters) if is_many else 1

    @event.listens_for(engine, "commit")
    def _end(connection: Any) -> None:
        rows.append(0)

    return rows


def test_no_transaction_writes_more_than_5000_scores_or_actuals(engine: Engine) -> None:
    write(engine, served(first=0, mean=(1.0,) * 5000), *(served(first=10 * n, mean=(1.0,) * 40) for n in range(100)))
    rows = count_rows_by_transaction(engine)
    assert record_actuals(engine, [Actual("a", row * HOUR, 1.5) for row in range(12_000)]) == 12_000
    assert count(engine, ACTUALS) == 12_000
    assert count(engine, SCORES) == 9000
    assert max(rows) <= 5000
    # each step of the longest forecast is scored once
    by_step = select(SCORES.c.step, func.count()).group_by(SCORES.c.step).order_by(SCORES.c.step)
    with transaction(engine) as connection:
        assert [tuple(row) for row in connection.execute(by_step)] == [
            (step, 101 if step <= 40 else 1) for step in range(1, 5001)
        ]
    # actuals that are sent again write nothing
    del rows[:]
    rows.append(0)
    assert record_actuals(engine, [Actual("a", row * HOUR, 1.5) for row in range(12_000)]) == 0
    assert max(rows) == 0


def test_forecasts_are_written_while_many_actuals_are_scored(engine: Engine) -> None:
    write(engine, *(served(first=10 * number, mean=(1.0,) * 40) for number in range(300)))
    scoring = threading.Thread(
        target=record_actuals, args=(engine, [Actual("a", row * HOUR, 1.5) for row in range(4000)])
    )
    writer = Writer(open_engine(engine.url.render_as_string()))
    writer.start()
    scoring.start()
    n_written = 0
    while scoring.is_alive():
        n_written += record(writer, entry(served("b")))
    writer.stop()
    # without the pauses between the transactions, it is less than 10
    assert n_written > 30
