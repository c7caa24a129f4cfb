"""A sandbox folder in which the scheduler is real, and the pipelines `score` and `retrain` are stand-ins."""

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
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import JOBS, RUNS
from forecaster.domain.config import load_config
from forecaster.domain.instants import SECOND, now_microseconds, to_microseconds
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.reports import FailureReporter
from forecaster.scheduling.runner import Runner, Stop
from tests.conftest import ROOT
from tests.postgres import fresh_database

# the sandbox replaces two pipelines, and finds the others in the checkout
_PACKAGE = "from pkgutil import extend_path\n\n__path__ = extend_path(__path__, __name__)\n"
_STAND_IN = """
import json, os, sys, time
from pathlib import Path


def note(**fields):
    with open("journal", "a") as journal:
        journal.write(json.dumps({**fields, "pid": os.getpid(), "at": time.time()}) + "\\n")


behaviour = json.loads(Path("pipeline.json").read_text())
journal = Path("journal").read_text() if Path("journal").exists() else ""
attempt = journal.count('"begin"')
note(event="begin", argv=sys.argv[1:], database=os.environ["FORECASTER_DATABASE_URL"],
     secret=os.environ.get("FORECASTER_WEBHOOK_URL"))
time.sleep(behaviour["seconds"])
note(event="end")
code = behaviour["exit_codes"][min(attempt, len(behaviour["exit_codes"]) - 1)]
if code:
    sys.stderr.write("some progress\\rerror: it went wrong\\n")
else:
    print("a table\\n" + json.dumps({"outcome": "promoted", "argv": sys.argv[1:]}))
sys.exit(code)
"""

RETRAIN = {"name": "retrain-stock", "run": "retrain", "config": "stock.yaml"}


def daily_cron(ago: timedelta) -> str:
    """Return a cron expression that was due that long ago, and at the same time of every day, in UTC."""
    then = datetime.now(UTC) - ago
    return f"{then.minute} {then.hour} * * *"


def overdue() -> dict[str, Any]:
    """Return the trigger of a job that was due five minutes ago, as a part of its configuration."""
    return {"when": {"cron": daily_cron(timedelta(minutes=5))}}


@dataclass
class SchedulerSandbox:
    """A folder with stand-in pipelines, and a database.

    Args:
        folder: also the working directory.
        url: of the database.
        engine: of the database.
    """

    folder: Path
    url: str
    engine: Engine

    def set_pipeline(self, seconds: float = 0, exit_codes: tuple[int, ...] = (0,)) -> None:
        """Set how long a pipeline takes, and the exit code of each attempt; the last code repeats."""
        behaviour = {"seconds": seconds, "exit_codes": exit_codes}
        (self.folder / "pipeline.json").write_text(json.dumps(behaviour))

    def write_schedule(self, *jobs: dict[str, Any], **settings: Any) -> Path:
        """Write a schedule that polls often and retries soon; a job is `score` unless it says otherwise."""
        complete = [{"name": "score", "run": "score", "when": None} | job for job in jobs]
        quick = {"poll_seconds": 0.1, "retry": {"attempts": 3, "first_seconds": 0.2, "factor": 2}}
        file = self.folder / "schedule.yaml"
        file.write_text(yaml.safe_dump({"schedule": {"jobs": complete} | quick | settings}))
        return file

    def start_scheduler(self, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        """Start `pipelines.schedule` in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.schedule", "schedule.yaml", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "FORECASTER_DATABASE_URL": self.url, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def add_job(self, ago: timedelta, job: str = "score") -> None:
        """Record that the job was added that long ago, so that what was due since is run."""
        at = to_microseconds(datetime.now(UTC) - ago)
        row = {
            "job": job, "cause": "due", "due_at": at, "attempt": 1, "state": "added",
            "started_at": at, "alive_at": at, "ended_at": at, "place": "",
        }  # fmt: skip
        with transaction(self.engine) as connection:
            connection.execute(insert(RUNS).values(row))

    def request_retraining(self, model: str, claimed_seconds_ago: float | None = None) -> int:
        """Insert a retraining request, as the service does; return its id."""
        now = now_microseconds()
        claimed_at = None if claimed_seconds_ago is None else now - int(claimed_seconds_ago * SECOND)
        row = {"kind": "retrain", "model": model, "reason": "drift", "asked_at": now, "taken_at": claimed_at}
        with transaction(self.engine) as connection:
            key = connection.execute(insert(JOBS).values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def requests(self) -> list[Any]:
        """Return the retraining requests in order."""
        with transaction(self.engine) as connection:
            return list(connection.execute(select(JOBS).order_by(JOBS.c.job_id)))

    def runs(self) -> list[Any]:
        """Return the runs in order, without the rows that record when a job was added."""
        query = select(RUNS).where(RUNS.c.state != "added").order_by(RUNS.c.run_id)
        with transaction(self.engine) as connection:
            return list(connection.execute(query))

    def states(self) -> list[tuple[str, int]]:
        """Return the state and the attempt of each run."""
        return [(run.state, run.attempt) for run in self.runs()]

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return what the pipelines have noted: an entry for each `begin` and each `end`."""
        file = self.folder / "journal"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if event in (None, line["event"])]

    def wait_until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited too long: {self.runs()} {self.journal()}"
            time.sleep(0.02)


class ManualScheduler:
    """A scheduler without a loop: the test calls `run_if_due`."""

    def __init__(self, sandbox: SchedulerSandbox, *jobs: dict[str, Any], **settings: Any) -> None:
        self.config = load_config(sandbox.write_schedule(*jobs, **settings), ScheduleConfig, (), "schedule")
        self.metrics = Metrics(self.config.jobs)
        self.stop = Stop()
        self.runner = Runner(self.config, sandbox.engine, self.metrics, FailureReporter(self.metrics), self.stop)

    @property
    def job(self) -> JobConfig:
        return self.config.jobs[0]

    def run_if_due(self) -> None:
        self.runner.run_if_due(self.job)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"forecaster_schedule_{name}", {"job": self.job.name, **labels})


def make_sandbox(folder: Path, url: str) -> SchedulerSandbox:
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "__init__.py").write_text(_PACKAGE)
    for name in ("score", "retrain"):
        (folder / "pipelines" / f"{name}.py").write_text(_STAND_IN)
    (folder / "stock.yaml").write_text("train: {name: stock}\n")
    engine = open_engine(url)
    upgrade_schema(engine)
    sandbox = SchedulerSandbox(folder, url, engine)
    sandbox.set_pipeline()
    return sandbox


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SchedulerSandbox]:
    """Yield a sandbox with a database on SQLite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = make_sandbox(tmp_path, f"sqlite:///{tmp_path}/service.db")
    yield made
    made.engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def sandbox_on_either_database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SchedulerSandbox]:
    """Yield a sandbox with a database on SQLite, then one on Postgres."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    is_local = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/service.db" if is_local else fresh_database(request.getfixturevalue("postgres"))
    made = make_sandbox(tmp_path, url)
    yield made
    made.engine.dispose()


def wait_for_exit(process: "subprocess.Popen[str]", seconds: float = 60) -> tuple[int, str, str]:
    """Return the exit status, stdout and stderr of a process once it has ended."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@contextmanager
def killed_afterwards(*processes: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill the processes that are still running at the end of the block."""
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
