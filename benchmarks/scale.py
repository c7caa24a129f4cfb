"""Measure how cost grows with the number of symbols and of processes: `python -m benchmarks.scale`.

It has three parts. `growth` fetches up to 500 synthetic symbols of ten years from a simulated Yahoo on loopback, trains
one model on all of them, and backtests the recipe on each with a fleet. `ray` runs a fleet on Ray with one worker and
with two. `replicas` loads one replica of the service, then two that share a ledger.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import func, select, text

from benchmarks.load import run_load
from benchmarks.memory import peak_memory
from benchmarks.report import Row, report
from benchmarks.servers import prepare, serving
from forecaster.database.schema import open_database
from forecaster.database.tables import FORECASTS, REQUESTS
from forecaster.domain.errors import ForecasterError
from tests.data.fake_yahoo import Yahoo, serve_yahoo
from tests.data.prices import Company
from tests.postgres import is_installed, postgres_server

FIRST, LAST = "2016-01-04", "2025-12-31"
ROUNDS, MANY_SERIES, CONCURRENCY = 3, 1000, 8
ROOT = Path(__file__).parents[1]
JOB = {
    "fetch": {"symbols": ["S0"], "start": FIRST, "end": LAST},
    "fleet": {"do": "backtest"},
    "train": {
        "name": "all",
        "data": {"source": "store", "symbols": ["S0"], "max_age_sessions": None},
        "freq": "XNYS",
        "input_size": 30,
        "horizon": 5,
        # each day is the target of one window
        "step_size": 5,
        "transforms": [{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        "model": {"cell": "gru", "widths": [16]},
        "fit": {"epochs": 2, "batch_size": 256},
        "intervals": "ewma",
        "refit": False,
    },
    "backtest": {"n_windows": 250, "baselines": ["naive"]},
}


@dataclass(frozen=True)
class Size:
    """The size of the benchmark: numbers of symbols, symbols on Ray, and seconds of each load."""

    symbols: tuple[int, ...] = (50, 150, 500)
    on_ray: int = 40
    seconds: float = 5


QUICK = Size((2, 4, 6), 4, 1)


@dataclass(frozen=True)
class Cost:
    """The cost of a command and its children: wall time, CPU time and peak memory."""

    seconds: float
    core_seconds: float
    megabytes: float

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of running one after the other."""
        return Cost(
            self.seconds + other.seconds,
            self.core_seconds + other.core_seconds,
            max(self.megabytes, other.megabytes),
        )


def run(folder: Path, pipeline: str, *overrides: str) -> tuple[dict[str, Any], Cost]:
    """Run a pipeline on the job in `folder`; return its JSON result and its cost."""
    command = [sys.executable, "-m", f"pipelines.{pipeline}", "job.yaml", "--set", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (
        (folder / f"{pipeline}.log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
        peak_memory(process.pid) as peak,
    ):
        out, _ = process.communicate()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise ForecasterError(f"pipelines.{pipeline} ended with {process.returncode}: {out[-500:]}; see {log.name}")
    core_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer, Cost(seconds, core_seconds, peak[0] / 1e6)


def symbols_of(count: int, first: int = 0) -> str:
    """Return the symbols from `first` up to `count` as a YAML list."""
    return "[" + ", ".join(f"S{number}" for number in range(first, count)) + "]"


@contextmanager
def yahoo(count: int) -> Iterator[str]:
    """Simulate Yahoo with `count` symbols; yield the override that fetches from it."""
    companies = {f"S{number}": Company(f"S{number}", FIRST, LAST, number).bars() for number in range(count)}
    with serve_yahoo(Yahoo(companies)) as stand_in:
        yield f"session={{origin: '{stand_in.url}', pause_seconds: 0}}"


def grow(folder: Path, size: Size) -> dict[int, dict[str, Cost]]:
    """Return the cost of each phase by number of symbols; fetching and backtesting costs add up over the sizes."""
    costs: dict[int, dict[str, Cost]] = {}
    fetching, backtesting, before = Cost(0, 0, 0), Cost(0, 0, 0), 0
    with yahoo(size.symbols[-1]) as session:
        for count in size.symbols:
            new = symbols_of(count, before)
            fetching += run(folder, "fetch", f"symbols={new}", session)[1]
            training = run(folder, "train", f"data.symbols={symbols_of(count)}")[1]
            answer, cost = run(folder, "fleet", f"symbols={new}")
            _check(answer, count - before)
            backtesting, before = backtesting + cost, count
            costs[count] = {"fetch": fetching, "train one model": training, "backtest each": backtesting}
            sys.stderr.write(f"{count} symbols: {costs[count]}\n")
    return costs


def _check(answer: dict[str, Any], count: int) -> None:
    if answer["outcomes"] != {"tried": count}:
        raise ForecasterError(f"the fleet did not try all {count} symbols: {answer}")


def on_ray(folder: Path, count: int) -> Iterator[Row]:
    """Yield the time and memory of a fleet of backtests on Ray with one worker and with two, including their start."""
    seconds = {}
    with yahoo(count) as session:
        run(folder, "fetch", f"symbols={symbols_of(count)}", session)
    for workers in (1, 2):
        where = ["on=ray", f"workers={workers}", f"folder=mlruns/ray-{workers}", f"symbols={symbols_of(count)}"]
        answer, cost = run(folder, "fleet", *where)
        _check(answer, count)
        seconds[workers] = answer["seconds"]
        yield Row(f"{count} backtests, Ray workers: {workers}", answer["seconds"], None, "s")
        yield Row("peak memory, with Ray's own", cost.megabytes, None, "MB")
    yield Row("two workers over one", seconds[2] / seconds[1], 1 / 1.5, "ratio")


def replicas(folder: Path, seconds: float) -> Iterator[Row]:
    """Yield the throughput of one replica, and of two that share a ledger under the same total load."""
    with ExitStack() as stack:
        deployment, database = prepare(folder), "SQLite; Postgres is not installed"
        if is_installed():
            database, url = "Postgres", stack.enter_context(postgres_server()).uri
            deployment = deployment.with_ledger(url)
        for kind, n_series, concurrency in (("requests", 1, CONCURRENCY), ("series", MANY_SERIES, 1)):
            requests = deployment.requests(n_series, 4)
            with serving(deployment) as first, serving(deployment) as second:
                groups = ((first.port,), (first.port, second.port))
                _load(groups[1], requests, concurrency, 1)
                # alternate, because the machine's speed may change over time
                rounds = [
                    [n_series * _load(ports, requests, concurrency, seconds) for ports in groups] for _ in range(ROUNDS)
                ]
            for count, rates in enumerate(zip(*rounds, strict=True), start=1):
                yield Row(f"{kind} per second, replicas: {count} ({database})", statistics.median(rates), None, "1/s")
            ratio = statistics.median(two_replicas / one_replica for one_replica, two_replicas in rounds)
            yield Row("two replicas over one", ratio, None, "ratio")
        yield Row("ledger size per forecast of 12 steps", _bytes_per_forecast(deployment.database_url), None, "bytes")


def _bytes_per_forecast(url: str) -> float:
    """Return the disk space of the ledger per forecast, with indexes."""
    with open_database(url) as engine, engine.connect() as connection:
        count = connection.execute(select(func.count()).select_from(FORECASTS)).scalar_one()
        if engine.dialect.name == "postgresql":
            tables = [func.pg_total_relation_size(table.name) for table in (FORECASTS, REQUESTS)]
            n_bytes = sum(connection.execute(select(*tables)).one())
        else:
            pages, size = (
                connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size")
            )
            n_bytes = pages * size
    return float(n_bytes / count)


def _load(ports: Sequence[int], requests: Sequence[bytes], concurrency: int, seconds: float) -> float:
    """Return the total answers per second of all ports."""
    with ThreadPoolExecutor(len(ports)) as pool:
        loads = [pool.submit(run_load, port, requests, concurrency, seconds) for port in ports]
        return sum(load.result().per_second for load in loads)


def as_rows(costs: dict[int, dict[str, Cost]]) -> Iterator[Row]:
    """Yield the costs as rows."""
    for count, phases in costs.items():
        for name, cost in phases.items():
            yield Row(f"{count} symbols, {name}", cost.seconds, None, "s")
            yield Row("  CPU time", cost.core_seconds, None, "core s")
            yield Row("  peak memory", cost.megabytes, None, "MB")
        total = sum(cost.seconds for cost in phases.values())
        yield Row(f"{count} symbols, end to end", total, None, "s")


def draw(costs: dict[int, dict[str, Cost]], file: Path) -> None:
    """Plot CPU time and peak memory by the number of symbols."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (field, label) in zip(
        panels, (("core_seconds", "CPU time, s"), ("megabytes", "peak memory, MB")), strict=True
    ):
        for name in next(iter(costs.values())):
            axes.plot(list(costs), [getattr(phases[name], field) for phases in costs.values()], "o-", label=name)
        axes.set(xlabel="symbols", ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(file, dpi=110)


def _growth(folder: Path, size: Size, plot: Path | None) -> Iterator[Row]:
    costs = grow(folder, size)
    if plot:
        draw(costs, plot)
    yield from as_rows(costs)


PARTS: dict[str, Callable[[Path, Size, Path | None], Iterator[Row]]] = {
    "growth": _growth,
    "ray": lambda folder, size, plot: on_ray(folder, size.on_ray),
    "replicas": lambda folder, size, plot: replicas(folder, size.seconds),
}


def main() -> int:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        epilog="examples:\n  python -m benchmarks.scale --quick\n"
        "  python -m benchmarks.scale --part growth --plot scaling.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="use a few symbols, to check that the benchmark runs")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=[*PARTS], help="what to measure (default: all)")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="plot the costs by number of symbols")
    arguments = parser.parse_args()
    size, rows = QUICK if arguments.quick else Size(), list[Row]()
    for part in arguments.part:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "job.yaml").write_text(yaml.safe_dump(JOB))
            rows += PARTS[part](Path(folder), size, arguments.plot)
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
