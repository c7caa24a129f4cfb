"""Run pipelines on a schedule: `python -m pipelines.schedule pipelines/configs/schedule.yaml`."""

import argparse
import sys
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from forecaster.database.engine import open_engine
from forecaster.database.schema import upgrade_schema
from forecaster.domain import logs
from forecaster.domain.config import load_config
from forecaster.domain.errors import ConfigError
from forecaster.domain.exits import FAILED
from forecaster.scheduling.config import JobConfig, ScheduleConfig
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.reports import FailureReporter
from forecaster.scheduling.runner import Runner
from forecaster.scheduling.scheduler import run_scheduler, stop_on_signals
from pipelines.command import add_database_option, config_parser, format_table, run

N_LISTED = 3


def list_next_runs(config: ScheduleConfig, now: datetime) -> dict[str, Any]:
    """Print and return the next runs of each job."""
    rows = [row for job in config.jobs for row in _next_runs(job, now)]
    sys.stdout.write(format_table(rows) + "\n")
    return {"next": [{"job": row["job"], "at": row["UTC"]} for row in rows if row["UTC"]]}


def run_once(config: ScheduleConfig, name: str, database: str) -> dict[str, Any]:
    """Run one job now; return its outcome."""
    job = next((job for job in config.jobs if job.name == name), None)
    if job is None:
        raise ConfigError(
            f"--once {name}: there is no such job; the jobs are {', '.join(job.name for job in config.jobs)}"
        )
    engine = open_engine(database)
    try:
        upgrade_schema(engine)
        metrics = Metrics(config.jobs)
        with stop_on_signals() as stop:
            result = Runner(config, engine, metrics, FailureReporter(metrics), stop).run_now(job)
    finally:
        engine.dispose()
    return {"job": name, "exit_code": result.exit_code, "outcome": result.outcome}


def run_when_due(config: ScheduleConfig, database: str) -> dict[str, Any]:
    """Run due jobs until a signal stops the scheduler."""
    engine = open_engine(database)
    try:
        upgrade_schema(engine)
        return {"is_finished": run_scheduler(config, engine)}
    finally:
        engine.dispose()


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: with `--once` that of the job, as a shell reports it; 1 if runs were terminated."""
    if "exit_code" in answer:
        code = answer["exit_code"]
        return FAILED if code is None else code if code >= 0 else 128 - code
    return 0 if answer.get("is_finished", True) else FAILED


def _next_runs(job: JobConfig, now: datetime) -> list[dict[str, str]]:
    if job.when is None:
        return [{"job": job.name, "runs": job.run, "UTC": "", "in its zone": "only on request"}]
    rows, due = [], now
    for _ in range(N_LISTED):
        due = job.when.after(due)
        local = due.astimezone(ZoneInfo(job.when.display_zone))
        shown = f"{local:%a %Y-%m-%d %H:%M} {job.when.display_zone}"
        rows.append({"job": job.name, "runs": job.run, "UTC": f"{due:%Y-%m-%dT%H:%M:%SZ}", "in its zone": shown})
    return rows


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    logs.set_up_from_environment()
    config = load_config(arguments.config, ScheduleConfig, arguments.overrides, "schedule")
    if arguments.list:
        return list_next_runs(config, datetime.now(UTC))
    if arguments.once is not None:
        return run_once(config, arguments.once, arguments.database)
    return run_when_due(config, arguments.database)


if __name__ == "__main__":
    parser = config_parser(
        "schedule",
        "Run pipelines on a schedule: by cron expressions, by exchange sessions, and when the service requests it.",
        "python -m pipelines.schedule pipelines/configs/schedule.yaml\n"
        "  python -m pipelines.schedule pipelines/configs/schedule.yaml --list\n"
        "  python -m pipelines.schedule pipelines/configs/schedule.yaml --once score",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the next three runs of each job and exit")
    mode.add_argument("--once", metavar="JOB", help="run one job now and exit with its status")
    add_database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: _run(parsed), status))
