"""What an installation keeps, small: stored bars, a ledger with scores and a key; and where it may come back."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from forecaster.backup.save import Places
from forecaster.data.store import BarStore
from forecaster.database.engine import transaction
from forecaster.database.keys import create_key
from forecaster.database.schema import open_database
from forecaster.database.tables import ACTUALS, FORECASTS, REQUESTS
from forecaster.ledger.entries import Entry, ServedForecast, new_request_id
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.writer import Writer
from tests.data.prices import Company

DUE = datetime(2999, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000


def write_bars(folder: Path, symbol: str, seed: int) -> None:
    store = BarStore(folder)
    with store.lock(symbol):
        store.write(Company(symbol=symbol, seed=seed).bars(), DUE)


def entry(number: int) -> Entry:
    """Return an answer with two forecasts."""
    steps = np.array([[(number + step) * HOUR, 1.0, 0.0, 2.0, -1.0, 3.0] for step in range(2)])
    served = tuple(ServedForecast(name, 1.0, steps, json.dumps({"unique_id": name})) for name in ("a", "b"))
    return Entry(new_request_id(number), number, "", "sine", 1, "model", "{}", served)


PLACED = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def move_artifacts(database: Path, old: str, new: str) -> None:
    """Let a copied MLflow store find its artifacts where they were copied to, as if they had been made there."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in PLACED:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))


def fill_ledger(url: str) -> None:
    with open_database(url) as engine:
        create_key(engine, "shop", ["forecast"])
        writer = Writer(engine)
        writer.start()
        assert all(writer.submit([entry(number)]).result() == [True] for number in range(20))
        writer.stop()
        record_actuals(engine, [Actual("a", 5 * HOUR, 4.0)])


def elsewhere(tmp_path: Path) -> Places:
    new = tmp_path / "somewhere else" / "entirely"
    return Places(f"sqlite:///{new}/store.db", None, new / "bars", f"sqlite:///{new}/kept/service.db")


def sizes(url: str) -> dict[str, int]:
    with open_database(url) as engine, transaction(engine) as connection:
        return {
            str(table.name): int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in (REQUESTS, FORECASTS, ACTUALS)
        }


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds, but for locks, which stay, and the ledger, which another form can have the same."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and not path.name.startswith("service.db")
    }
