"""Scoring leaves the others their turn: no transaction writes many rows, and the writer waits for none for long."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import bring_up_to_date
from forecaster.database.tables import ACTUALS, SCORES
from forecaster.ledger.scoring import Actual, take_actuals
from forecaster.ledger.writer import Writer
from tests.ledger.test_ledger import HOUR, count, entry, record, served


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path}/l.db", 60)
    bring_up_to_date(engine)
    return engine


def write(engine: Engine, *forecasts: Any) -> None:
    writer = Writer(engine)
    writer.start()
    for one in forecasts:
        record(writer, entry(one))
    writer.stop()


def rows_of_transactions(engine: Engine) -> list[int]:
    """Return a list that will have how many actuals and scores each transaction writes."""
    rows = [0]

    @event.listens_for(engine, "after_cursor_execute")
    def _count(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, is_many: bool) -> None:
        if statement.startswith(("INSERT INTO scores", "INSERT INTO actuals")):
            rows[-1] += len(parameters) if is_many else 1

    @event.listens_for(engine, "commit")
    def _end(connection: Any) -> None:
        rows.append(0)

    return rows


def test_no_transaction_writes_many_scores_or_actuals(engine: Engine) -> None:
    write(engine, served(first=0, mean=(1.0,) * 5000), *(served(first=10 * n, mean=(1.0,) * 40) for n in range(100)))
    rows = rows_of_transactions(engine)
    assert take_actuals(engine, [Actual("a", row * HOUR, 1.5) for row in range(12_000)]) == 12_000
    assert count(engine, ACTUALS) == 12_000
    assert count(engine, SCORES) == 9000
    assert max(rows) <= 5000
    # of the longest forecast each step is scored as itself, and once
    by_step = select(SCORES.c.step, func.count()).group_by(SCORES.c.step).order_by(SCORES.c.step)
    with transaction(engine) as connection:
        assert [tuple(row) for row in connection.execute(by_step)] == [
            (step, 101 if step <= 40 else 1) for step in range(1, 5001)
        ]
    # sent again, nothing is written
    del rows[:]
    rows.append(0)
    assert take_actuals(engine, [Actual("a", row * HOUR, 1.5) for row in range(12_000)]) == 0
    assert max(rows) == 0


def test_forecasts_are_written_while_many_actuals_are_scored(engine: Engine) -> None:
    write(engine, *(served(first=10 * number, mean=(1.0,) * 40) for number in range(300)))
    scoring = threading.Thread(
        target=take_actuals, args=(engine, [Actual("a", row * HOUR, 1.5) for row in range(4000)])
    )
    impatient = open_engine(engine.url.render_as_string(), 1)
    writer = Writer(impatient)
    writer.start()
    scoring.start()
    n_written = 0
    while scoring.is_alive():
        n_written += record(writer, entry(served("b")))
    writer.stop()
    assert n_written > 10
