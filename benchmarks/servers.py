"""The servers that the benchmarks load: the service with two trained versions, and `mlflow models serve`."""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import http_request
from forecaster.database.keys import create_key
from forecaster.database.schema import open_database
from forecaster.domain.config import load_config
from forecaster.registry.cache import CHAMPION, read_indexes
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.config import TrainConfig
from forecaster.training.job import train

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "sine.yaml"
# different series
VARIANTS = 500


@dataclass(frozen=True)
class Deployment:
    """The setup of a service: a folder with a cache of two versions, the recipe, an API key, and the ledger's URL."""

    folder: Path
    config: TrainConfig
    key: str
    database_url: str

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def with_ledger(self, database_url: str) -> "Deployment":
        """Return the same deployment with another ledger, and a key in it."""
        with open_database(database_url) as engine:
            key = create_key(engine, "benchmark", ["forecast", "admin"])
        return replace(self, key=key, database_url=database_url)

    def requests(self, n_series: int = 1, count: int = VARIANTS) -> list[bytes]:
        """Return complete HTTP requests for `n_series` series each.

        The series have the same times and different names and values, as those of a fleet that is forecast each hour.
        """
        headers = {"Authorization": f"Bearer {self.key}"}
        return [
            http_request("/v1/forecasts", json.dumps(self._body(number, n_series)).encode(), headers)
            for number in range(count)
        ]

    def tensors(self) -> list[bytes]:
        """Return complete HTTP requests for forecasts of the same series by `mlflow models serve`."""
        bodies = [{"inputs": {"x": [[[value] for value in self.values(number)]]}} for number in range(VARIANTS)]
        return [http_request("/invocations", json.dumps(body).encode(), {}) for body in bodies]

    def _body(self, number: int, n_series: int) -> dict[str, Any]:
        first = datetime(2026, 1, 1)
        times = [(first + timedelta(hours=row)).isoformat() for row in range(self.config.input_size)]
        values = self.values(number)
        series = [{"unique_id": f"s{number}-{row}", "ds": times, "y": values} for row in range(n_series)]
        return {"model": self.config.name, "series": series, "level": [80, 95]}

    def values(self, number: int) -> list[float]:
        """Return the history of a series."""
        return [(row + number) % 24 / 12 + number for row in range(self.config.input_size)]


def prepare(folder: Path) -> Deployment:
    """Train two versions of the sine model for an epoch, sync them to a cache, and create an API key."""
    changes = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.checkpoints={folder}/checkpoints"]
    config = load_config(CONFIG, TrainConfig, [*changes, "fit.epochs=1"], "train")
    store = Store(config.tracking.uri, create=True)
    for cell in ("lstm", "gru"):
        version = train(config.with_cell(cell)).version
    store.promote(config.name, version)
    sync(store, folder / "cache")
    return Deployment(folder, config, "", "").with_ledger(f"sqlite:///{folder}/service.db")


@dataclass(frozen=True)
class Serving:
    """A running server: its port, its process, and its startup time."""

    port: int
    process: psutil.Process
    ready_seconds: float

    @property
    def megabytes(self) -> float:
        """Return the resident memory of it and its children in MB."""
        processes = [self.process, *self.process.children(recursive=True)]
        return float(sum(process.memory_info().rss for process in processes) / 1e6)


@contextmanager
def serving(deployment: Deployment, module: str = "service") -> Iterator[Serving]:
    """Run the service on a free port; yield it when it is ready."""
    port = _free_port()
    settings = {
        "FORECASTER_PORT": str(port),
        "FORECASTER_TRACKING_URI": "",
        "FORECASTER_CACHE_DIR": str(deployment.cache),
        "FORECASTER_DATABASE_URL": deployment.database_url,
        "FORECASTER_LOG_LEVEL": "warning",
        "FORECASTER_DRAIN_SECONDS": "0",
    }
    with _started([sys.executable, "-m", module], settings) as process:
        start = time.perf_counter()
        while _status(port, "/health/ready") != 200:
            time.sleep(0.01)
        yield Serving(port, psutil.Process(process.pid), time.perf_counter() - start)


@contextmanager
def mlflow_serving(deployment: Deployment) -> Iterator[Serving]:
    """Run `mlflow models serve` with the champion on a free port; yield it when it is ready."""
    index = read_indexes(deployment.cache)[deployment.config.name]
    uri = f"models:/{deployment.config.name}/{index.aliases[CHAMPION]}"
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-p", str(port)]
    environment = {
        "MLFLOW_TRACKING_URI": deployment.config.tracking.uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with _started(command, environment) as process:
        start = time.perf_counter()
        while _status(port, "/ping") != 200:
            time.sleep(0.2)
        yield Serving(port, psutil.Process(process.pid), time.perf_counter() - start)


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            # MLflow's server starts workers
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
            process.terminate()
            process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
