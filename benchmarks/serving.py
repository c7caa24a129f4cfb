"""Measure the service's throughput, latency, memory and startup: `python -m benchmarks.serving`.

Authentication, metrics and the ledger are enabled. The load comes from another process. `--peer` also measures
`mlflow models serve`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from benchmarks.load import LoadResult, http_request, run_load
from benchmarks.report import Row, report
from benchmarks.servers import Deployment, mlflow_serving, prepare, serving
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, read_indexes, write_index
from forecaster.registry.predictor import ArrayPredictor
from tests.postgres import is_installed, postgres_server

STARTS, CONCURRENCY, ROUNDS = 5, 8, 5
OURS, BARE, PEER = "service", "bare FastAPI route", "mlflow models serve"
MANY_SERIES = 1000
REQUESTS, SWAPS = 30_000, 100


@dataclass(frozen=True)
class Contender:
    """A server's route that is compared with the others, and what it is asked for."""

    name: str
    port: int
    requests: Sequence[bytes]

    def load(self, concurrency: int) -> LoadResult:
        """Load the route."""
        return run_load(self.port, self.requests, concurrency)


def compare(deployment: Deployment, has_peer: bool) -> Iterator[Row]:
    """Yield throughput and latency beside a minimal route of the same process, and beside `mlflow models serve`.

    The contenders take turns in each round, because the machine's speed changes over time.
    """
    with ExitStack() as stack:
        service = stack.enter_context(serving(deployment, "benchmarks.bare_route"))
        contenders = [
            Contender(OURS, service.port, deployment.requests()),
            Contender(BARE, service.port, [http_request("/bare", b"{}", {})]),
        ]
        if has_peer:
            peer = stack.enter_context(mlflow_serving(deployment))
            contenders.append(Contender(PEER, peer.port, deployment.tensors()))
            yield Row(f"{PEER}: start to ready", peer.ready_seconds, None, "s")
        results: dict[tuple[str, int], list[LoadResult]] = {}
        for contender in contenders:
            run_load(contender.port, contender.requests, seconds=1)
        if has_peer:
            yield Row(f"{PEER}: memory", peer.megabytes, None, "MB")
        with measured_cpu(service.process) as cpu:
            n_requests = sum(contenders[0].load(CONCURRENCY).statuses.values())
        for _ in range(ROUNDS):
            for contender in contenders:
                for concurrency in (1, CONCURRENCY):
                    results.setdefault((contender.name, concurrency), []).append(contender.load(concurrency))
        yield from _as_rows(results, has_peer)
        for thread, seconds in cpu.items():
            label = f"CPU time of a request, connections: {CONCURRENCY}, {thread}"
            yield Row(label, 1e6 * seconds / n_requests, None, "us")
        large = [run_load(service.port, deployment.requests(MANY_SERIES, 4), 1) for _ in range(ROUNDS)]
        rates = [result.per_second * MANY_SERIES for result in large]
        yield Row.of_runs(f"series per second, {MANY_SERIES} a request", rates, 8000, "1/s", is_least=True)
        over = inference_rate(deployment) / statistics.median(rates)
        yield Row("ONNX Runtime without the service over that", over, None, "ratio")


def _as_rows(results: dict[tuple[str, int], list[LoadResult]], has_peer: bool) -> Iterator[Row]:
    for (name, concurrency), measured in results.items():
        label = f"{name}, connections: {concurrency}"
        yield Row.of_runs(f"{label}, requests per second", [result.per_second for result in measured], None, "1/s")
        yield Row.of_runs(f"{label}, p99", [1000 * result.p99_seconds for result in measured], None, "ms")

    def ratios(theirs: str, concurrency: int, field: str = "per_second") -> list[float]:
        pairs = zip(results[OURS, concurrency], results[theirs, concurrency], strict=True)
        return [getattr(ours, field) / getattr(other, field) for ours, other in pairs]

    at_most, at_least = partial(Row.of_runs, unit="ratio"), partial(Row.of_runs, unit="ratio", is_least=True)
    label = f"connections: {CONCURRENCY}"
    yield at_least(f"service over {BARE}, {label}", ratios(BARE, CONCURRENCY), 0.36)
    yield at_most(f"p99, service over {BARE}, {label}", ratios(BARE, CONCURRENCY, "p99_seconds"), 4)
    if has_peer:
        yield at_least(f"service over {PEER}, {label}", ratios(PEER, CONCURRENCY), 3)
        yield at_least(f"service over {PEER}, connections: 1", ratios(PEER, 1), 2)


@contextmanager
def measured_cpu(process: psutil.Process) -> Iterator[dict[str, float]]:
    """Yield the CPU seconds that a process takes in the block, by thread, once the block has ended."""
    taken: dict[str, float] = {}
    before = _thread_seconds(process)
    yield taken
    for thread, seconds in _thread_seconds(process).items():
        name = "event loop" if thread == process.pid else "other threads"
        taken[name] = taken.get(name, 0) + seconds - before.get(thread, 0)


def _thread_seconds(process: psutil.Process) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def compare_ledgers(deployment: Deployment) -> Iterator[Row]:
    """Yield the throughput with a ledger in Postgres over that with SQLite."""
    if not is_installed():
        return
    with ExitStack() as stack:
        url = stack.enter_context(postgres_server()).uri
        deployments = (deployment, deployment.with_ledger(url))
        services = [stack.enter_context(serving(each)) for each in deployments]
        contenders = [
            Contender(name, service.port, each.requests())
            for name, service, each in zip(("SQLite", "Postgres"), services, deployments, strict=True)
        ]
        rounds = [[contender.load(CONCURRENCY).per_second for contender in contenders] for _ in range(ROUNDS)]
        ratios = [postgres / sqlite for sqlite, postgres in rounds]
        yield Row.of_runs("requests per second, Postgres over SQLite", ratios, 0.7, "ratio", is_least=True)


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
        run_load(service.port, deployment.requests(), seconds=3)
        first, count, swaps = service.megabytes, 0, 0
        while count < REQUESTS or swaps < SWAPS:
            swaps += 1
            version = sorted(index.runs)[swaps % len(index.runs)]
            write_index(deployment.cache, name, ModelIndex({CHAMPION: version}, index.runs))
            count += sum(run_load(service.port, deployment.requests(), seconds=0.7).statuses.values())
        yield Row(f"memory after {count} requests and {swaps} swaps", service.megabytes, 180, "MB")
        yield Row("growth since the first requests", service.megabytes - first, 20, "MB")
    write_index(deployment.cache, name, index)


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
    parts: list[Callable[[Deployment], Iterator[Row]]] = [
        starts,
        partial(compare, has_peer=arguments.peer),
        compare_ledgers,
    ]
    if not arguments.quick:
        parts.append(endurance)
    with tempfile.TemporaryDirectory() as folder:
        deployment = prepare(Path(folder))
        return report([row for part in parts for row in part(deployment)])


if __name__ == "__main__":
    sys.exit(main())
