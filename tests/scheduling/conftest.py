"""A folder in which the schedule is the real one, and the pipelines `score` and `retrain` do as a test says."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, insert, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import bring_up_to_date
from forecaster.database.tables import JOBS, RUNS
from forecaster.domain.config import load_config
from forecaster.domain.instants import SECOND, as_at, now_at
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.reports import Reports
from forecaster.scheduling.runner import Runner, Stop
from tests.conftest import ROOT
from tests.postgres import fresh_database

# the other pipelines are the checkout's
_PACKAGE = "from pkgutil import extend_path\n\n__path__ = extend_path(__path__, __name__)\n"
_STAND_IN = """
import json, os, sys, time
from pathlib import Path


def note(**what):
    with open("journal", "a") as journal:
        journal.write(json.dumps({**what, "pid": os.getpid(), "at": time.time()}) + "\\n")


orders = json.loads(Path("orders.json").read_text())
known = Path("journal").read_text() if Path("journal").exists() else ""
number = known.count('"begin"')
note(event="begin", argv=sys.argv[1:], database=os.environ["FORECASTER_DATABASE_URL"],
     secret=os.environ.get("FORECASTER_WEBHOOK_URL"))
time.sleep(orders["seconds"])
note(event="end")
code = orders["exits"][min(number, len(orders["exits"]) - 1)]
if code:
    sys.stderr.write("some progress\\rerror: it went wrong\\n")
else:
    print("a table\\n" + json.dumps({"outcome": "promoted", "argv": sys.argv[1:]}))
sys.exit(code)
"""


def daily(ago: timedelta) -> str:
    """Return a cron expression of each day at the time of day that was then, in UTC."""
    then = datetime.now(UTC) - ago
    return f"{then.minute} {then.hour} * * *"


def earlier() -> dict[str, Any]:
    """Return what makes a job due five minutes ago."""
    return {"when": {"cron": daily(timedelta(minutes=5))}}


RETRAIN = {"name": "retrain-stock", "run": "retrain", "config": "stock.yaml"}


@dataclass
class SchedulerSandbox:
    """The folder, and a database."""

    folder: Path
    url: str
    engine: Engine

    def order(self, seconds: float = 0, exits: tuple[int, ...] = (0,)) -> None:
        """Say how long the pipelines take, and how each attempt ends; further ones as the last."""
        (self.folder / "orders.json").write_text(json.dumps({"seconds": seconds, "exits": exits}))

    def write(self, *jobs: dict[str, Any], **more: Any) -> Path:
        """Write a schedule that looks often."""
        named = [{"name": "score", "run": "score", "when": None} | job for job in jobs]
        quick = {"poll_seconds": 0.1, "retry": {"attempts": 3, "first_seconds": 0.2, "factor": 2}}
        file = self.folder / "schedule.yaml"
        file.write_text(yaml.safe_dump({"schedule": {"jobs": named} | quick | more}))
        return file

    def start(self, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        """Start the schedule, in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.schedule", "schedule.yaml", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "FORECASTER_DATABASE_URL": self.url, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def seen(self, ago: timedelta, job: str = "score") -> None:
        """Let the database say that the job was first seen so long ago."""
        at = as_at(datetime.now(UTC) - ago)
        row = {
            "job": job, "cause": "due", "due_at": at, "attempt": 1, "state": "added",
            "started_at": at, "alive_at": at, "ended_at": at, "place": "",
        }  # fmt: skip
        with transaction(self.engine) as connection:
            connection.execute(insert(RUNS).values(row))

    def ask(self, model: str, taken_seconds_ago: float | None = None) -> int:
        """Ask for a retraining, as the service does; returns its number."""
        taken = None if taken_seconds_ago is None else now_at() - int(taken_seconds_ago * SECOND)
        row = {"kind": "retrain", "model": model, "reason": "drift", "asked_at": now_at(), "taken_at": taken}
        with transaction(self.engine) as connection:
            made = connection.execute(insert(JOBS).values(row)).inserted_primary_key
        assert made is not None
        return int(made[0])

    def asked(self) -> list[Any]:
        with transaction(self.engine) as connection:
            return list(connection.execute(select(JOBS).order_by(JOBS.c.job_id)))

    def runs(self) -> list[Any]:
        """Return the runs in order, without the rows that say when a job was first seen."""
        wanted = select(RUNS).where(RUNS.c.state != "added").order_by(RUNS.c.run_id)
        with transaction(self.engine) as connection:
            return list(connection.execute(wanted))

    def states(self) -> list[tuple[str, int]]:
        return [(run.state, run.attempt) for run in self.runs()]

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        file = self.folder / "journal"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if event in (None, line["event"])]

    def wait(self, is_so: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"never so: {self.runs()} {self.journal()}"
            time.sleep(0.02)


class ManualScheduler:
    """A scheduler whose looks a test calls by hand."""

    def __init__(self, sandbox: SchedulerSandbox, *jobs: dict[str, Any], **more: Any) -> None:
        self.config = load_config(sandbox.write(*jobs, **more), ScheduleConfig, (), "schedule")
        self.metrics = Metrics(self.config.jobs)
        self.stop = Stop()
        self.runner = Runner(self.config, sandbox.engine, self.metrics, Reports(self.metrics), self.stop)

    @property
    def job(self) -> JobConfig:
        return self.config.jobs[0]

    def look(self) -> None:
        self.runner.look(self.job)

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"forecaster_schedule_{name}", {"job": self.job.name, **labels})


def make_sandbox(folder: Path, url: str) -> SchedulerSandbox:
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "__init__.py").write_text(_PACKAGE)
    for name in ("score", "retrain"):
        (folder / "pipelines" / f"{name}.py").write_text(_STAND_IN)
    (folder / "stock.yaml").write_text("train: {name: stock}\n")
    engine = open_engine(url)
    bring_up_to_date(engine)
    sandbox = SchedulerSandbox(folder, url, engine)
    sandbox.order()
    return sandbox


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SchedulerSandbox]:
    """Yield the folder, which is the current one, with a database on SQLite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = make_sandbox(tmp_path, f"sqlite:///{tmp_path}/service.db")
    yield made
    made.engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def sandbox_on_either_database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SchedulerSandbox]:
    """Yield likewise, with a database on SQLite, then on Postgres."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    is_local = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/service.db" if is_local else fresh_database(request.getfixturevalue("postgres"))
    made = make_sandbox(tmp_path, url)
    yield made
    made.engine.dispose()


def end(process: "subprocess.Popen[str]", seconds: float = 60) -> tuple[int, str, str]:
    """Return the exit status, stdout and stderr of a process once it has ended."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@contextmanager
def ended(*processes: "subprocess.Popen[str]") -> Iterator[None]:
    """End processes in whatever way they have not ended yet."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
