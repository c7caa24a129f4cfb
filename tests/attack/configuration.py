"""Attacks by configuration and by kill: invalid configurations exit with status 2, and no run stays open."""

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.attack.attack import Attack, Outcome, last_line
from tests.attack.target import MEMORY_LIMIT, RECIPE, Target

BAD_CONFIG = 2
_TRIAL = {"n_windows": 60, "refit": "each"}


def _refused(name: str, write: Callable[[Path], None], limit: int | None = MEMORY_LIMIT) -> Callable[[Target], Outcome]:
    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        write(workspace)
        done = target.run("pipelines.train", "job.yaml", cwd=workspace, timeout=45, limit=limit)
        if done.code == BAD_CONFIG and not done.is_traceback:
            return Outcome(True, f"exit 2: {last_line(done.err)}")
        if done.code == 0:
            return Outcome(False, "exit 0, trained and registered")
        kind = "traceback" if done.is_traceback else "message"
        return Outcome(False, f"exit {done.code}, {kind}: {last_line(done.err)}")

    return run


def _duplicate_keys(workspace: Path) -> None:
    (workspace / "job.yaml").write_text(yaml.safe_dump({**RECIPE, "fit": {"epochs": 1}}) + "horizon: 1\n")


def _negative_seed(workspace: Path) -> None:
    data = {**RECIPE["data"], "seed": -1}
    (workspace / "job.yaml").write_text(yaml.safe_dump({**RECIPE, "data": data, "fit": {"epochs": 1}}))


def _rows(workspace: Path) -> None:
    (workspace / "job.yaml").write_text(yaml.safe_dump({**RECIPE, "data": {"source": "sine", "length": 10**13}}))


def _truncated_gzip(workspace: Path) -> None:
    import gzip

    rows = "".join(f"2026-01-01T{row % 24:02d}:00:00,{row}\n" for row in range(5000))
    whole = gzip.compress(f"ds,y\n{rows}".encode())
    (workspace / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    (workspace / "job.yaml").write_text(yaml.safe_dump({**RECIPE, "data": {"source": "files", "path": "a.csv.gz"}}))


def _deep_nesting(workspace: Path) -> None:
    (workspace / "job.yaml").write_text("name: " + "[" * 5000 + "]" * 5000)


def _kill_backtest(target: Target) -> Outcome:
    workspace = target.workspace("killed backtest")
    (workspace / "job.yaml").write_text(yaml.safe_dump({"train": RECIPE, "backtest": _TRIAL}))
    process = target.start("pipelines.backtest", "job.yaml", cwd=workspace, limit=None)
    database, deadline = workspace / "mlruns" / "mlflow.db", time.monotonic() + 60
    while time.monotonic() < deadline and not list((workspace / "mlruns" / "checkpoints").glob("backtest-*/0/*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = target.run(
        "pipelines.backtest", "job.yaml", "--set", "refit=never", "n_windows=2", cwd=workspace, timeout=90, limit=None
    )
    with sqlite3.connect(database) as connection:
        states = [row[0] for row in connection.execute("SELECT status FROM runs ORDER BY start_time")]
    held = again.code == 0 and len(states) == 2 and "RUNNING" not in states
    return Outcome(held, f"after kill -9 and the next start the runs are {', '.join(states)}")


# without a memory limit, so that a revision that accepts the file can go on to train
ATTACKS = (
    Attack("YAML with a key twice", "B9", _refused("duplicate keys", _duplicate_keys, limit=None)),
    Attack("a negative seed", "B9", _refused("negative seed", _negative_seed)),
    Attack("10^13 rows", "B9", _refused("10^13 rows", _rows)),
    Attack("a truncated gzip file", "B9", _refused("truncated gzip", _truncated_gzip)),
    Attack("5,000 nested lists", "B9", _refused("deep nesting", _deep_nesting)),
    Attack("kill -9 of a backtest", "B9", _kill_backtest),
)
