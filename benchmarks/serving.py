"""What a serving process costs: start to ready, memory, one forecast: `python -m benchmarks.serving`."""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import Row, report
from forecaster.domain.config import load_config
from forecaster.registry.cache import CHAMPION, ModelIndex, read_indexes, write_index
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.job import train
from forecaster.training.recipe import TrainConfig

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "sine.yaml"
STARTS = 5
REQUESTS = 500


@dataclass(frozen=True)
class Serving:
    """A running service: a connection that is kept, its process, and how long it took to be ready."""

    connection: http.client.HTTPConnection
    process: psutil.Process
    ready_seconds: float

    def ask(self, body: bytes) -> dict[str, Any]:
        """Return the answer to a forecast request."""
        self.connection.request("POST", "/v1/forecasts", body, {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(self.connection.getresponse().read())
        return answer


def fill_cache(folder: Path) -> tuple[Path, TrainConfig]:
    """Train two versions of the sine model for an epoch and return a cache that holds them."""
    changes = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.checkpoints={folder}/checkpoints"]
    config = load_config(CONFIG, TrainConfig, [*changes, "fit.epochs=1"], "train")
    store = Store(config.tracking.uri, create=True)
    for cell in ("lstm", "gru"):
        version = train(
            load_config(CONFIG, TrainConfig, [*changes, "fit.epochs=1", f"model.cell={cell}"], "train")
        ).version
    store.promote(config.name, version)
    sync(store, folder / "cache")
    return folder / "cache", config


@contextmanager
def serving(cache: Path) -> Iterator[Serving]:
    """Start `python -m service` on a free port and stop it afterwards."""
    settings = {"FORECASTER_PORT": "0", "FORECASTER_TRACKING_URI": "", "FORECASTER_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        found = re.search(r"serving on http://([\d.]+):(\d+)", process.stderr.readline())
        assert found is not None
        connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=30)
        while not _is_ready(connection):
            time.sleep(0.01)
        yield Serving(connection, psutil.Process(process.pid), time.perf_counter() - started)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _is_ready(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        answer.read()
    except ConnectionError:
        connection.close()
        return False
    return answer.status == 200


def _request(config: TrainConfig) -> bytes:
    first = datetime(2026, 1, 1)
    times = [(first + timedelta(hours=row)).isoformat() for row in range(config.input_size)]
    series = {"unique_id": "a", "ds": times, "y": [row % 24 / 12 for row in range(config.input_size)]}
    return json.dumps({"model": config.name, "series": [series], "level": [80, 95]}).encode()


def measure(folder: Path) -> Iterator[Row]:
    """Yield the figures, each a median."""
    cache, config = fill_cache(folder)
    body = _request(config)
    ready = []
    for _ in range(STARTS):
        with serving(cache) as service:
            ready.append(service.ready_seconds)
    yield Row("start to ready, warm cache", statistics.median(ready), 2.5, "s")
    with serving(cache) as service:
        champion = service.ask(body)["model"]["version"]
        durations = []
        for _ in range(REQUESTS):
            begun = time.perf_counter()
            service.ask(body)
            durations.append(time.perf_counter() - begun)
        yield Row("one series over HTTP, kept connection", statistics.median(durations) * 1000, None, "ms")
        index = read_indexes(cache)[config.name]
        other = next(version for version in index.runs if version != champion)
        write_index(cache, config.name, ModelIndex({CHAMPION: other}, index.runs))
        while service.ask(body)["model"]["version"] != other:
            time.sleep(0.05)
        yield Row(f"memory after {REQUESTS} forecasts and a swap", service.process.memory_info().rss / 1e6, 180, "MB")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(list(measure(Path(folder))))


if __name__ == "__main__":
    main()
