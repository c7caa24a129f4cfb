"""How cost grows with the number of symbols and of processes: `python -m benchmarks.scale`.

Synthetic symbols of ten years, up to 500: fetched from a stand-in for Yahoo on loopback, one model trained on all of
them, the recipe tried on each by a fleet; Ray with one worker and with two; the service with one replica and with two
on one ledger. Each phase is a command of its own, measured with its children.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from sqlalchemy import func, select, text

from benchmarks.report import Row, report
from benchmarks.serving import Ground, loaded, prepare, serving
from forecaster.database.keys import create_key
from forecaster.database.schema import open_database
from forecaster.database.tables import FORECASTS, REQUESTS
from forecaster.domain.errors import ForecasterError
from tests.data.prices import Company
from tests.data.yahoo_stand_in import Yahoo, standing_in
from tests.postgres import is_installed, postgres_server

FIRST, LAST = "2016-01-04", "2025-12-31"
ROUNDS, MANY_SERIES, CONCURRENCY = 3, 1000, 8
SAMPLE_SECONDS = 0.2
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
        # each day belongs to one window's targets
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
    """How much is measured: numbers of symbols, of those on Ray, and the seconds of a load."""

    symbols: tuple[int, ...] = (50, 150, 500)
    on_ray: int = 40
    seconds: float = 5


QUICK = Size((2, 4, 6), 4, 1)


@dataclass(frozen=True)
class Cost:
    """What a command took: wall time, the cores' time, and the most memory, its children's in all of them."""

    seconds: float
    core_seconds: float
    megabytes: float

    def __add__(self, other: "Cost") -> "Cost":
        """Return what one after the other takes."""
        return Cost(
            self.seconds + other.seconds,
            self.core_seconds + other.core_seconds,
            max(self.megabytes, other.megabytes),
        )


def run(folder: Path, pipeline: str, *overrides: str) -> tuple[dict[str, Any], Cost]:
    """Run a pipeline on the job in `folder`; return its last line and what it took."""
    command = [sys.executable, "-m", f"pipelines.{pipeline}", "job.yaml", "--set", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (
        (folder / f"{pipeline}.log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
        _watched(process.pid) as most,
    ):
        out, _ = process.communicate()
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise ForecasterError(f"pipelines.{pipeline} ended with {process.returncode}: {out[-500:]}; see {log.name}")
    core_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer, Cost(seconds, core_seconds, most[0] / 1e6)


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """Yield the most memory that a process and its children have held; pages that they share count for each."""
    most, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            try:
                family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                most[0] = max(most[0], sum(one.memory_info().rss for one in family))
            except psutil.NoSuchProcess:
                # one of them has ended meanwhile
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def symbols_of(count: int, first: int = 0) -> str:
    """Return symbols as an override has them."""
    return "[" + ", ".join(f"S{number}" for number in range(first, count)) + "]"


@contextmanager
def yahoo(count: int) -> Iterator[str]:
    """Stand in for Yahoo with so many symbols; yield the override that asks there."""
    companies = {f"S{number}": Company(f"S{number}", FIRST, LAST, number).bars() for number in range(count)}
    with standing_in(Yahoo(companies)) as stand_in:
        yield f"session={{origin: '{stand_in.url}', pause_seconds: 0}}"


def grow(folder: Path, size: Size) -> dict[int, dict[str, Cost]]:
    """Return what each phase took by the number of symbols; what a smaller number has taken is counted on."""
    costs: dict[int, dict[str, Cost]] = {}
    nothing = Cost(0, 0, 0)
    fetched, tried, before = nothing, nothing, 0
    with yahoo(size.symbols[-1]) as session:
        for count in size.symbols:
            new = symbols_of(count, before)
            fetched += run(folder, "fetch", f"symbols={new}", session)[1]
            trained = run(folder, "train", f"data.symbols={symbols_of(count)}")[1]
            answer, cost = run(folder, "fleet", f"symbols={new}")
            _check(answer, count - before)
            tried, before = tried + cost, count
            costs[count] = {"fetch": fetched, "train one model": trained, "backtest each": tried}
            sys.stderr.write(f"{count} symbols: {costs[count]}\n")
    return costs


def _check(answer: dict[str, Any], count: int) -> None:
    if answer["outcomes"] != {"tried": count}:
        raise ForecasterError(f"the fleet ended with {answer}")


def on_ray(folder: Path, count: int) -> Iterator[Row]:
    """Yield what a fleet of backtests takes on Ray with one worker and with two, their start included."""
    seconds = {}
    with yahoo(count) as session:
        run(folder, "fetch", f"symbols={symbols_of(count)}", session)
    for workers in (1, 2):
        where = ["on=ray", f"workers={workers}", f"folder=mlruns/ray-{workers}", f"symbols={symbols_of(count)}"]
        answer, cost = run(folder, "fleet", *where)
        _check(answer, count)
        seconds[workers] = answer["seconds"]
        yield Row(f"{count} backtests, Ray workers: {workers}", answer["seconds"], None, "s")
        yield Row("their most memory, Ray's own included", cost.megabytes, None, "MB")
    yield Row("two workers over one", seconds[2] / seconds[1], 1 / 1.5, "ratio")


@dataclass(frozen=True)
class Shared(Ground):
    """What is served, with the ledger in a database of our choice."""

    url: str

    @property
    def database_url(self) -> str:
        return self.url


def replicas(folder: Path, seconds: float) -> Iterator[Row]:
    """Yield what one replica and two on one ledger answer, both loaded at once."""
    with ExitStack() as stack:
        ground, kept_in = prepare(folder), "SQLite; Postgres is not installed"
        if is_installed():
            kept_in, url = "Postgres", stack.enter_context(postgres_server()).uri
            with open_database(url) as engine:
                key = create_key(engine, "benchmark", ["forecast"])
            ground = Shared(ground.folder, ground.config, key, url)
        for kind, n_series, concurrency in (("requests", 1, CONCURRENCY), ("series", MANY_SERIES, 1)):
            with serving(ground) as first, serving(ground) as second:
                groups = ((first.port,), (first.port, second.port))
                _load(groups[1], ground.request(n_series), concurrency, 1)
                # in turns, for the machine may be slower at one time than at another
                rounds = [
                    [n_series * _load(ports, ground.request(n_series), concurrency, seconds) for ports in groups]
                    for _ in range(ROUNDS)
                ]
            for count, rates in enumerate(zip(*rounds, strict=True), start=1):
                yield Row(f"{kind} per second, replicas: {count} ({kept_in})", statistics.median(rates), None, "1/s")
            ratio = statistics.median(both / one for one, both in rounds)
            yield Row("two replicas over one", ratio, None, "ratio")
        yield Row("the ledger, of each forecast of 12 steps", _bytes_per_forecast(ground.database_url), None, "bytes")


def _bytes_per_forecast(url: str) -> float:
    """Return what the ledger takes of the disk for each forecast that it holds, indexes and all."""
    with open_database(url) as engine, engine.connect() as connection:
        count = connection.execute(select(func.count()).select_from(FORECASTS)).scalar_one()
        if engine.dialect.name == "postgresql":
            tables = [func.pg_total_relation_size(table.name) for table in (FORECASTS, REQUESTS)]
            taken = sum(connection.execute(select(*tables)).one())
        else:
            pages, size = (
                connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size")
            )
            taken = pages * size
    return float(taken / count)


def _load(ports: Sequence[int], request: bytes, concurrency: int, seconds: float) -> float:
    """Return the answers per second of all ports together."""
    with ThreadPoolExecutor(len(ports)) as pool:
        loads = [pool.submit(loaded, port, request, concurrency, seconds) for port in ports]
        return sum(load.result().per_second for load in loads)


def as_rows(costs: dict[int, dict[str, Cost]]) -> Iterator[Row]:
    """Yield the costs as figures."""
    for count, phases in costs.items():
        for name, cost in phases.items():
            yield Row(f"{count} symbols, {name}", cost.seconds, None, "s")
            yield Row("  of the cores", cost.core_seconds, None, "core s")
            yield Row("  most memory", cost.megabytes, None, "MB")
        whole = sum(cost.seconds for cost in phases.values())
        yield Row(f"{count} symbols, end to end", whole, None, "s")


def draw(costs: dict[int, dict[str, Cost]], file: Path) -> None:
    """Draw cores' time and memory by the number of symbols."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    both = figure.subplots(1, 2)
    for axes, (what, unit) in zip(
        both, (("core_seconds", "seconds of a core"), ("megabytes", "MB at most")), strict=True
    ):
        for name in next(iter(costs.values())):
            axes.plot(list(costs), [getattr(phases[name], what) for phases in costs.values()], "o-", label=name)
        axes.set(xlabel="symbols", ylabel=unit, ylim=(0, None), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False)
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
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few symbols, to see that it runs")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=[*PARTS], help="what is measured (default: all)")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the costs by the number of symbols")
    arguments = parser.parse_args()
    size, rows = QUICK if arguments.quick else Size(), list[Row]()
    for part in arguments.part:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "job.yaml").write_text(yaml.safe_dump(JOB))
            rows += PARTS[part](Path(folder), size, arguments.plot)
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
