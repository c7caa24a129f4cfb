"""Sales of shops with opening histories of different lengths, described by an area and a format."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.training.config import TrainConfig
from tests.conftest import small_config

AREAS = {"a": 10.5, "b": 20.0, "c": 35.0, "d": 8.0, "e": 50.0}
FORMATS = {"a": "kiosk", "b": "hall", "c": "kiosk", "d": "hall", "e": "kiosk"}


def shops() -> pd.DataFrame:
    """Return the sales of five shops: the format decides the direction of the weekly pattern, the area its size."""
    random, frames = np.random.default_rng(2), []
    for number, (name, area) in enumerate(AREAS.items()):
        rows = 130 + 30 * number
        weekly = area * np.sin(np.arange(rows) * 2 * np.pi / 7) * (1 if FORMATS[name] == "kiosk" else -1)
        days = pd.date_range(end="2025-12-31", periods=rows, freq="D")
        y = 100 + weekly + random.normal(0, 1, rows)
        frames.append(pd.DataFrame({"unique_id": name, "ds": days, "y": y, "area": area, "format": FORMATS[name]}))
    return pd.concat(frames, ignore_index=True)


def shop_recipe(folder: Path, **changes: Any) -> TrainConfig:
    """Return a recipe of one model for all shops, whose data it writes into `folder`."""
    shops().to_csv(folder / "shops.csv", index=False)
    settings: dict[str, Any] = {
        "name": "shops",
        "data": {"source": "files", "path": str(folder / "shops.csv")},
        "input_size": 14,
        "stat_exog": ["area", "format"],
        "model": {"cell": "gru", "encoder": {"widths": [6]}, "inputs": {"series_embedding": 2}},
        "fit": {"epochs": 2, "batch_size": 32, "learning_rate": 0.02},
        "folds": 0,
    }
    return small_config(folder, **settings | changes)
