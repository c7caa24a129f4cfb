"""What the service costs and bears: `python -m benchmarks.serving`; `--peer` loads `mlflow models serve` too.

Authentication, metrics and the ledger are on; the load comes from a process of its own.
"""

import argparse
import http.client
import json
import os
import socket
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

import numpy as np
import psutil

from benchmarks.load import Measured, http_request
from benchmarks.report import Row, report
from forecaster.database.keys import create_key
from forecaster.database.schema import open_database
from forecaster.domain.config import load_config
from forecaster.domain.errors import ForecasterError
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, read_indexes, write_index
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.config import TrainConfig
from forecaster.training.job import train

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "sine.yaml"
STARTS, CONCURRENCY, SECONDS, ROUNDS = 5, 8, 5, 3
MANY_SERIES = 1000
REQUESTS, SWAPS = 30_000, 100


@dataclass(frozen=True)
class Ground:
    """What is served: a cache of two versions, the recipe, a key, and where the ledger is."""

    folder: Path
    config: TrainConfig
    key: str

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder}/service.db"

    def request(self, n_series: int = 1) -> bytes:
        """Return a whole request for forecasts of so many series."""
        first = datetime(2026, 1, 1)
        times = [(first + timedelta(hours=row)).isoformat() for row in range(self.config.input_size)]
        values = [row % 24 / 12 for row in range(self.config.input_size)]
        series = [{"unique_id": f"s{number}", "ds": times, "y": values} for number in range(n_series)]
        body = json.dumps({"model": self.config.name, "series": series, "level": [80, 95]}).encode()
        return http_request("/v1/forecasts", body, {"Authorization": f"Bearer {self.key}"})


def prepare(folder: Path) -> Ground:
    """Train two versions of the sine model for an epoch, fill a cache with them, and make a key."""
    changes = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.checkpoints={folder}/checkpoints"]
    config = load_config(CONFIG, TrainConfig, [*changes, "fit.epochs=1"], "train")
    store = Store(config.tracking.uri, create=True)
    for cell in ("lstm", "gru"):
        version = train(config.with_cell(cell)).version
    store.promote(config.name, version)
    sync(store, folder / "cache")
    with open_database(f"sqlite:///{folder}/service.db") as engine:
        key = create_key(engine, "benchmark", ["forecast", "admin"])
    return Ground(folder, config, key)


@dataclass(frozen=True)
class Serving:
    """A running service: its address, its process, and how long it took to be ready."""

    port: int
    process: psutil.Process
    ready_seconds: float

    @property
    def megabytes(self) -> float:
        """Return the memory that it holds."""
        return float(self.process.memory_info().rss / 1e6)


@contextmanager
def serving(ground: Ground, module: str = "service") -> Iterator[Serving]:
    """Start the service on a free port and stop it afterwards."""
    port = _free_port()
    settings = {
        "FORECASTER_PORT": str(port),
        "FORECASTER_TRACKING_URI": "",
        "FORECASTER_CACHE_DIR": str(ground.cache),
        "FORECASTER_DATABASE_URL": ground.database_url,
        "FORECASTER_LOG_LEVEL": "warning",
        "FORECASTER_DRAIN_SECONDS": "0",
    }
    with _started([sys.executable, "-m", module], settings) as process:
        begin = time.perf_counter()
        while _status(port, "/health/ready") != 200:
            time.sleep(0.01)
        yield Serving(port, psutil.Process(process.pid), time.perf_counter() - begin)


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            # workers of the peer too
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


def loaded(port: int, request: bytes, concurrency: int = CONCURRENCY, seconds: float = SECONDS) -> Measured:
    """Load a server from another process; every answer must be a 200."""
    order = {
        "host": "127.0.0.1", "port": port, "request": request.hex(), "concurrency": concurrency, "seconds": seconds,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=json.dumps(order), capture_output=True, text=True, check=True
    )
    measured = Measured(**json.loads(done.stdout))
    if set(measured.statuses) != {"200"}:
        raise ForecasterError(f"the load was answered with {measured.statuses}")
    return measured


def beside_bare(ground: Ground) -> Iterator[Row]:
    """Yield requests per second and p99 beside a bare route of the same process, round by round in turns."""
    bare = http_request("/bare", b"{}", {})
    with serving(ground, "benchmarks.beside_bare") as service:
        loaded(service.port, ground.request(), seconds=1)
        rounds = [(loaded(service.port, ground.request()), loaded(service.port, bare)) for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(one[side].per_second for one in rounds) for side in (0, 1))
        yield Row("requests per second, one series", ours, None, "1/s")
        yield Row("a bare FastAPI route's", theirs, None, "1/s")
        yield Row("ours over the bare route's", ours / theirs, 0.3, "ratio", is_least=True)
        slowest = statistics.median(one[0].p99_seconds / one[1].p99_seconds for one in rounds)
        yield Row("p99, ours over the bare route's", slowest, 4, "ratio")
        many = [loaded(service.port, ground.request(MANY_SERIES), 1) for _ in range(ROUNDS)]
        rate = statistics.median(one.per_second for one in many) * MANY_SERIES
        yield Row(f"series per second, {MANY_SERIES} a request", rate, 5000, "1/s", is_least=True)
        yield Row("ONNX Runtime alone over that", inference_rate(ground) / rate, None, "ratio")


def inference_rate(ground: Ground) -> float:
    """Return how many series a second the forecasts alone take, in this process."""
    index = read_indexes(ground.cache)[ground.config.name]
    bundle = read_bundle(bundle_folder(ground.cache, ground.config.name, index.aliases[CHAMPION]))
    predictor, windows = (
        Predictor(bundle),
        np.random.default_rng(1).normal(size=(MANY_SERIES, ground.config.input_size)),
    )
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        predictor.predict_arrays(windows)
    return ROUNDS * MANY_SERIES / (time.perf_counter() - begin)


def endurance(ground: Ground) -> Iterator[Row]:
    """Yield memory after many requests and swaps, and how much of it has grown since the first ones."""
    name = ground.config.name
    index = read_indexes(ground.cache)[name]
    with serving(ground) as service:
        loaded(service.port, ground.request(), seconds=3)
        first, count, swaps = service.megabytes, 0, 0
        while count < REQUESTS or swaps < SWAPS:
            swaps += 1
            version = sorted(index.runs)[swaps % len(index.runs)]
            write_index(ground.cache, name, ModelIndex({CHAMPION: version}, index.runs))
            count += sum(loaded(service.port, ground.request(), seconds=0.7).statuses.values())
        yield Row(f"memory after {count} requests and {swaps} swaps", service.megabytes, 180, "MB")
        yield Row("of that grown", service.megabytes - first, 20, "MB")
    write_index(ground.cache, name, index)


def beside_mlflow(ground: Ground) -> Iterator[Row]:
    """Yield the requests per second of `mlflow models serve` of the same version, one series a request."""
    index = read_indexes(ground.cache)[ground.config.name]
    uri = f"models:/{ground.config.name}/{index.aliases[CHAMPION]}"
    port, rows = _free_port(), [[[row % 24 / 12] for row in range(ground.config.input_size)]]
    request = http_request("/invocations", json.dumps({"inputs": {"x": rows}}).encode(), {})
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-p", str(port)]
    environment = {
        "MLFLOW_TRACKING_URI": ground.config.tracking.uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with _started(command, environment) as process:
        begin = time.perf_counter()
        while _status(port, "/ping") != 200:
            time.sleep(0.2)
        yield Row("mlflow models serve: start to ready", time.perf_counter() - begin, None, "s")
        loaded(port, request, seconds=1)
        theirs = statistics.median(loaded(port, request).per_second for _ in range(ROUNDS))
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield Row("its memory", sum(one.memory_info().rss for one in processes) / 1e6, None, "MB")
        yield Row("its requests per second", theirs, None, "1/s")
    with serving(ground) as service:
        ours = statistics.median(loaded(service.port, ground.request()).per_second for _ in range(ROUNDS))
    yield Row("our requests per second over its", ours / theirs, 150, "ratio", is_least=True)


def starts(ground: Ground) -> Iterator[Row]:
    """Yield the time from start to ready."""
    ready = []
    for _ in range(STARTS):
        with serving(ground) as service:
            ready.append(service.ready_seconds)
    yield Row("start to ready, warm cache", statistics.median(ready), 2.5, "s")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--peer", action="store_true", help="load mlflow models serve as well")
    parser.add_argument("--quick", action="store_true", help="without the 30,000 requests and 100 swaps")
    arguments = parser.parse_args()
    parts = [starts, beside_bare, *([] if arguments.quick else [endurance])]
    with tempfile.TemporaryDirectory() as folder:
        ground = prepare(Path(folder))
        return report([row for part in [*parts, *([beside_mlflow] if arguments.peer else [])] for row in part(ground)])


if __name__ == "__main__":
    sys.exit(main())
