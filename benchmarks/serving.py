"""Measure the service's throughput, latency, memory and startup: `python -m benchmarks.serving`.

Authentication, metrics and the ledger are enabled. The load comes from another process. `--peer` also measures
`mlflow models serve`.
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

from benchmarks.load import LoadResult, http_request
from benchmarks.report import Row, report
from forecaster.database.keys import create_key
from forecaster.database.schema import open_database
from forecaster.domain.config import load_config
from forecaster.domain.errors import ForecasterError
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, read_indexes, write_index
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.config import TrainConfig
from forecaster.training.job import train

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "sine.yaml"
STARTS, CONCURRENCY, SECONDS, ROUNDS = 5, 8, 5, 3
MANY_SERIES = 1000
REQUESTS, SWAPS = 30_000, 100


@dataclass(frozen=True)
class Deployment:
    """The setup of a service: a folder with a cache of two versions and a ledger, the recipe, and an API key."""

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
        """Return a complete HTTP request for forecasts of `n_series` series."""
        first = datetime(2026, 1, 1)
        times = [(first + timedelta(hours=row)).isoformat() for row in range(self.config.input_size)]
        values = [row % 24 / 12 for row in range(self.config.input_size)]
        series = [{"unique_id": f"s{number}", "ds": times, "y": values} for number in range(n_series)]
        body = json.dumps({"model": self.config.name, "series": series, "level": [80, 95]}).encode()
        return http_request("/v1/forecasts", body, {"Authorization": f"Bearer {self.key}"})


def prepare(folder: Path) -> Deployment:
    """Train two versions of the sine model for an epoch, sync them to a cache, and create an API key."""
    changes = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.checkpoints={folder}/checkpoints"]
    config = load_config(CONFIG, TrainConfig, [*changes, "fit.epochs=1"], "train")
    store = Store(config.tracking.uri, create=True)
    for cell in ("lstm", "gru"):
        version = train(config.with_cell(cell)).version
    store.promote(config.name, version)
    sync(store, folder / "cache")
    with open_database(f"sqlite:///{folder}/service.db") as engine:
        key = create_key(engine, "benchmark", ["forecast", "admin"])
    return Deployment(folder, config, key)


@dataclass(frozen=True)
class Serving:
    """A running service: its port, its process, and its startup time."""

    port: int
    process: psutil.Process
    ready_seconds: float

    @property
    def megabytes(self) -> float:
        """Return its resident memory in MB."""
        return float(self.process.memory_info().rss / 1e6)


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


def run_load(port: int, request: bytes, concurrency: int = CONCURRENCY, seconds: float = SECONDS) -> LoadResult:
    """Load a server from another process.

    Raises:
        ForecasterError: an answer has another status than 200.
    """
    options = {
        "host": "127.0.0.1", "port": port, "request": request.hex(), "concurrency": concurrency, "seconds": seconds,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=json.dumps(options), capture_output=True, text=True, check=True
    )
    result = LoadResult(**json.loads(done.stdout))
    if set(result.statuses) != {"200"}:
        raise ForecasterError(f"requests failed; answers by status: {result.statuses}")
    return result


def compare_bare_route(deployment: Deployment) -> Iterator[Row]:
    """Yield throughput and p99 latency relative to a minimal route of the same process, in alternating rounds."""
    bare = http_request("/bare", b"{}", {})
    with serving(deployment, "benchmarks.bare_route") as service:
        run_load(service.port, deployment.request(), seconds=1)
        rounds = [(run_load(service.port, deployment.request()), run_load(service.port, bare)) for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(results[side].per_second for results in rounds) for side in (0, 1))
        yield Row("requests per second, one series", ours, None, "1/s")
        yield Row("requests per second, bare FastAPI route", theirs, None, "1/s")
        yield Row("service over bare route", ours / theirs, 0.3, "ratio", is_least=True)
        latency = statistics.median(forecasts.p99_seconds / route.p99_seconds for forecasts, route in rounds)
        yield Row("p99, service over bare route", latency, 4, "ratio")
        large = [run_load(service.port, deployment.request(MANY_SERIES), 1) for _ in range(ROUNDS)]
        rate = statistics.median(result.per_second for result in large) * MANY_SERIES
        yield Row(f"series per second, {MANY_SERIES} a request", rate, 5000, "1/s", is_least=True)
        yield Row("ONNX Runtime without the service over that", inference_rate(deployment) / rate, None, "ratio")


def inference_rate(deployment: Deployment) -> float:
    """Return the series per second of ONNX Runtime in this process, without the service."""
    index = read_indexes(deployment.cache)[deployment.config.name]
    bundle = read_bundle(bundle_folder(deployment.cache, deployment.config.name, index.aliases[CHAMPION]))
    predictor, windows = (
        ArrayPredictor(bundle),
        np.random.default_rng(1).normal(size=(MANY_SERIES, deployment.config.input_size)),
    )
    start = time.perf_counter()
    for _ in range(ROUNDS):
        predictor.predict_arrays(windows)
    return ROUNDS * MANY_SERIES / (time.perf_counter() - start)


def endurance(deployment: Deployment) -> Iterator[Row]:
    """Yield the memory after many requests and version swaps, and its growth since the first requests."""
    name = deployment.config.name
    index = read_indexes(deployment.cache)[name]
    with serving(deployment) as service:
        run_load(service.port, deployment.request(), seconds=3)
        first, count, swaps = service.megabytes, 0, 0
        while count < REQUESTS or swaps < SWAPS:
            swaps += 1
            version = sorted(index.runs)[swaps % len(index.runs)]
            write_index(deployment.cache, name, ModelIndex({CHAMPION: version}, index.runs))
            count += sum(run_load(service.port, deployment.request(), seconds=0.7).statuses.values())
        yield Row(f"memory after {count} requests and {swaps} swaps", service.megabytes, 180, "MB")
        yield Row("growth since the first requests", service.megabytes - first, 20, "MB")
    write_index(deployment.cache, name, index)


def compare_mlflow(deployment: Deployment) -> Iterator[Row]:
    """Yield startup, memory and throughput of `mlflow models serve` with the same version, one series a request."""
    index = read_indexes(deployment.cache)[deployment.config.name]
    uri = f"models:/{deployment.config.name}/{index.aliases[CHAMPION]}"
    port, rows = _free_port(), [[[row % 24 / 12] for row in range(deployment.config.input_size)]]
    request = http_request("/invocations", json.dumps({"inputs": {"x": rows}}).encode(), {})
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-p", str(port)]
    environment = {
        "MLFLOW_TRACKING_URI": deployment.config.tracking.uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with _started(command, environment) as process:
        start = time.perf_counter()
        while _status(port, "/ping") != 200:
            time.sleep(0.2)
        yield Row("mlflow models serve: start to ready", time.perf_counter() - start, None, "s")
        run_load(port, request, seconds=1)
        theirs = statistics.median(run_load(port, request).per_second for _ in range(ROUNDS))
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        memory = sum(process.memory_info().rss for process in processes) / 1e6
        yield Row("mlflow models serve: memory", memory, None, "MB")
        yield Row("mlflow models serve: requests per second", theirs, None, "1/s")
    with serving(deployment) as service:
        ours = statistics.median(run_load(service.port, deployment.request()).per_second for _ in range(ROUNDS))
    yield Row("requests per second, service over mlflow models serve", ours / theirs, 150, "ratio", is_least=True)


def starts(deployment: Deployment) -> Iterator[Row]:
    """Yield the startup time."""
    ready = []
    for _ in range(STARTS):
        with serving(deployment) as service:
            ready.append(service.ready_seconds)
    yield Row("start to ready, warm cache", statistics.median(ready), 2.5, "s")


def main() -> int:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.serving --quick\n  python -m benchmarks.serving --peer",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peer", action="store_true", help="also measure mlflow models serve")
    parser.add_argument("--quick", action="store_true", help="skip the 30,000 requests and 100 version swaps")
    arguments = parser.parse_args()
    parts = [starts, compare_bare_route]
    if not arguments.quick:
        parts.append(endurance)
    if arguments.peer:
        parts.append(compare_mlflow)
    with tempfile.TemporaryDirectory() as folder:
        deployment = prepare(Path(folder))
        return report([row for part in parts for row in part(deployment)])


if __name__ == "__main__":
    sys.exit(main())
