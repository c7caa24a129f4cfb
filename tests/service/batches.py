"""Histories and configurations of batches, and their comparison with the service's answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select

from forecaster.database.engine import transaction
from forecaster.database.schema import open_database
from forecaster.database.tables import FORECASTS
from forecaster.domain.config import build_config
from forecaster.inference.batch import Batch, BatchConfig, forecast_batch

HOURS = 30
# the third series ends at a clock change in Europe
FIRST = pd.Timestamp("2026-03-26T01:00")


def history(names: tuple[str, ...] = ("b", "a", "c"), tz: str | None = None) -> pd.DataFrame:
    """Return interleaved series that end on different days."""
    random = np.random.default_rng(1)
    parts = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range(FIRST + pd.Timedelta(days=number), periods=HOURS, freq="h", tz=tz),
                "y": random.normal(size=HOURS),
            }
        )
        for number, name in enumerate(names)
    ]
    return pd.concat(parts).sort_values(["ds", "unique_id"]).reset_index(drop=True)


def config(cache: Path, folder: Path, **changes: Any) -> BatchConfig:
    raw = {"name": "sine", "level": [80, 95], "out": folder / "out.parquet", "cache": cache, "tracking": {"uri": ""}}
    return build_config(raw | changes, BatchConfig, "test")


def new_database(config: BatchConfig) -> str:
    """Return the URL of a database next to the batch's file."""
    return f"sqlite:///{config.out.parent}/database/ledger.db"


def forecast(config: BatchConfig, database: str | None = None) -> tuple[pd.DataFrame, Batch]:
    batch = forecast_batch(config, database or new_database(config), lambda done, count: None)
    return pd.read_parquet(config.out), batch


def as_series(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as the series of a request."""
    return [
        {"unique_id": name, "ds": [time.isoformat() for time in rows["ds"]], "y": rows["y"].tolist()}
        for name, rows in frame.groupby("unique_id", sort=False)
    ]


def assert_same(frame: pd.DataFrame, answer: dict[str, Any]) -> None:
    """Compare a batch with the service's answer, bit by bit."""
    columns = list(answer["forecasts"][0])[6:]
    first_columns = ["unique_id", "cutoff", "ds", "mean"]
    assert list(frame) == [*first_columns, *columns, "is_adapted", "forecast_by", "model", "version"]
    groups = list(frame.groupby("unique_id", sort=False))
    assert [name for name, _ in groups] == [served["unique_id"] for served in answer["forecasts"]]
    for (_, rows), served in zip(groups, answer["forecasts"], strict=True):
        assert rows["ds"].tolist() == [pd.Timestamp(time) for time in served["ds"]]
        assert set(rows["cutoff"]) == {pd.Timestamp(served["cutoff"])}
        for column in ("mean", *columns):
            np.testing.assert_array_equal(rows[column], np.array(served[column], dtype=float))
        assert set(rows["is_adapted"]) == {served["is_adapted"]}
    assert set(frame["version"]) == {answer["model"]["version"]}
    assert set(frame["forecast_by"]) == {answer["forecast_by"]}


def stored_forecasts(database: str) -> list[Any]:
    """Return the forecasts in a ledger."""
    with open_database(database) as engine, transaction(engine) as connection:
        return list(connection.execute(select(FORECASTS).order_by(FORECASTS.c.forecast_id)))
