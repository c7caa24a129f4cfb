"""A service on a socket for browser tests, with two models and two stored series."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from forecaster.data.tails import Tail, file_name
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.job import train
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, small_config

HOSTILE = "<img src=x onerror=alert(1)>"
BARS = "WALK"
N_BARS = 90


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Run the service in a thread; yield its URL once it serves a model."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not (server.started and _has_models(server)):
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _has_models(server: uvicorn.Server) -> bool:
    app: Any = server.config.app
    return bool(app.state.model_store.catalog)


def create_site(folder: Path, models: TrainedModels) -> dict[str, Any]:
    """Return the settings of a service with the model `sine`, a random walk without skill, and two stored series."""
    changes = {
        "name": "walk",
        "data": {"source": "random_walk", "length": 800, "seed": 5},
        "transforms": [{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        "fit": {"epochs": 1},
    }
    registered = train(small_config(folder, **changes))
    store = Store(f"sqlite:///{folder}/mlflow.db")
    store.promote("walk", registered.version)
    sync(store, folder / "cache")
    shutil.copytree(models.cache, folder / "cache", dirs_exist_ok=True)
    (folder / "bars").mkdir()
    for symbol in (BARS, HOSTILE):
        (folder / "bars" / f"{file_name(symbol)}.tail.json").write_text(stored_tail(symbol).to_json())
    return {
        "cache_dir": folder / "cache",
        "bars_dir": folder / "bars",
        "database_url": f"sqlite:///{folder}/ledger.db",
        "tracking_uri": "",
    }


def stored_tail(symbol: str) -> Tail:
    """Return the tail of a synthetic symbol."""
    close = 100 + np.cumsum(np.random.default_rng(7).normal(size=N_BARS))
    days = np.busday_offset(np.datetime64("2026-01-05"), np.arange(N_BARS))
    bars = {"open": close - 0.5, "high": close + 1, "low": close - 1, "close": close, "volume": np.full(N_BARS, 1e6)}
    return Tail(symbol, days, bars, datetime(2999, 1, 1, tzinfo=UTC))
