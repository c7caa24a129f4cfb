"""The program under attack: a checkout, its commands and its service, each process with a memory limit.

Attacks use only the command line, HTTP and files, so that any revision can be attacked.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml

MIB = 2**20
MEMORY_LIMIT = 1024 * MIB
RECIPE: dict[str, Any] = {
    "name": "sine",
    "data": {"source": "sine", "length": 800, "seed": 3, "sines": [{"period": 12}]},
    "input_size": 24,
    "horizon": 4,
    "transforms": [{"kind": "standardize"}],
    "model": {"cell": "gru", "widths": [8]},
    "fit": {"epochs": 4, "batch_size": 32, "learning_rate": 0.02},
}


@dataclass(frozen=True)
class CommandResult:
    """A finished command.

    Args:
        code: its exit status; -9 if it was killed at the timeout.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        seconds: how long it ran.
        mib: its peak resident memory.
    """

    code: int
    out: str
    err: str
    seconds: float
    mib: int

    @property
    def is_traceback(self) -> bool:
        """Return whether stderr has a traceback."""
        return "Traceback (most recent call last)" in self.err


class Target:
    """A checkout, and a folder for its output."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout = checkout.resolve()
        self.folder = folder

    def workspace(self, name: str) -> Path:
        """Return an empty folder for an attack."""
        workspace = self.folder / name.replace(" ", "-")
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        return workspace

    def run(self, module: str, *arguments: object, cwd: Path, timeout: float = 60, **options: Any) -> CommandResult:
        """Run `python -m module`, and kill it at the timeout; `options` are those of `start`."""
        start = time.monotonic()
        with (cwd / "stdout").open("wb") as out, (cwd / "stderr").open("wb") as err:
            process = self.start(module, *arguments, cwd=cwd, out=out, err=err, **options)
            usage, code = _wait(process, timeout)
        stdout, stderr = ((cwd / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return CommandResult(code, stdout, stderr, time.monotonic() - start, usage // 1024)

    def start(
        self,
        module: str,
        *arguments: object,
        cwd: Path,
        limit: int | None = MEMORY_LIMIT,
        out: Any = subprocess.DEVNULL,
        err: Any = subprocess.DEVNULL,
        **variables: str,
    ) -> "subprocess.Popen[bytes]":
        """Start `python -m module` in `cwd`, in a new session, with at most `limit` bytes of address space."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FORECASTER_")}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-m", module, *map(str, arguments)]
        if limit is not None:
            command = ["sh", "-c", f'ulimit -S -v {limit // 1024} && exec "$@"', "sh", *command]
        return subprocess.Popen(
            command,
            cwd=cwd,
            env={**inherited, **quiet, "PYTHONPATH": str(self.checkout), **variables},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    @cached_property
    def store(self) -> Path:
        """A folder with an MLflow store whose champion is version 1 of `sine`, and a cache of it; created once."""
        folder = self.workspace("trained")
        (folder / "job.yaml").write_text(yaml.safe_dump(RECIPE))
        (folder / "promote.yaml").write_text(yaml.safe_dump({"name": "sine"}))
        uri = "sqlite:///mlruns/mlflow.db"
        for module, arguments in (
            ("pipelines.train", ["job.yaml"]),
            ("pipelines.promote", ["promote.yaml", "--without-gate"]),
            ("forecaster.registry.sync", ["--cache", "mlruns/cache"]),
        ):
            done = self.run(module, *arguments, cwd=folder, timeout=240, limit=None, FORECASTER_TRACKING_URI=uri)
            if done.code != 0:
                raise RuntimeError(f"{module} cannot prepare the attacks: {done.err[-2000:]}")
        return folder

    @contextmanager
    def service(self, workspace: Path, limit: int = MEMORY_LIMIT, **settings: object) -> Iterator["Service"]:
        """Run a service on a copy of the cache in `workspace`; yield it when it is ready."""
        if not (workspace / "cache").exists():
            shutil.copytree(self.store / "mlruns" / "cache", workspace / "cache")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        defaults = {
            "PORT": port, "TRACKING_URI": "", "CACHE_DIR": workspace / "cache", "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{workspace}/service.db", "REFRESH_SECONDS": 1,
            "KEYS_REFRESH_SECONDS": 0.5, "DRAIN_SECONDS": 0,
            **settings,
        }  # fmt: skip
        variables = {f"FORECASTER_{name}": str(value) for name, value in defaults.items()}
        with (workspace / "service.log").open("wb") as log:
            process = self.start("service", cwd=workspace, limit=limit, out=log, err=log, **variables)
        service = Service(port, process)
        try:
            service.wait_until_ready(workspace / "service.log")
            yield service
        finally:
            _kill(process)


class Service:
    """A running service."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self.process = process

    def request(
        self, method: str, path: str, body: Any = None, timeout: float = 30, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON body of the response.

        Raises:
            OSError: there is no JSON response.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, text, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(repr(error)) from error
        finally:
            connection.close()

    def forecast(self, timeout: float = 30, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        """Return status and body of the response to a valid forecast request, with some fields changed."""
        return self.request("POST", "/v1/forecasts", forecast_request(**changes), timeout, headers)

    def connect(self, timeout: float = 20) -> socket.socket:
        """Return a TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def wait_until_ready(self, log: Path) -> None:
        """Wait until readiness is 200.

        Raises:
            RuntimeError: the service does not become ready.
        """
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.is_alive:
            try:
                if self.request("GET", "/health/ready", timeout=5)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the service was never ready: {log.read_text(errors='replace')[-2000:]}")

    @property
    def is_alive(self) -> bool:
        """Return whether its process runs."""
        return self.process.poll() is None

    @property
    def peak_mib(self) -> int:
        """Return its peak resident memory; 0 if it does not run."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        peaks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
        return peaks[0] // 1024 if peaks else 0

    def is_answering(self, timeout: float = 5) -> bool:
        """Return whether `/health/live` answers within the timeout."""
        try:
            return self.request("GET", "/health/live", timeout=timeout)[0] == 200
        except OSError:
            return False


def forecast_request(**changes: Any) -> dict[str, Any]:
    """Return the body of a valid forecast request, with some fields changed."""
    times = [f"2026-01-{1 + row // 24:02d}T{row % 24:02d}:00:00Z" for row in range(30)]
    series = {"unique_id": "a", "ds": times, "y": [float(row % 12) / 6 - 1 for row in range(30)]}
    return {"model": "sine", "series": [series], "horizon": 4, "level": [80]} | changes


def _wait(process: "subprocess.Popen[bytes]", timeout: float) -> tuple[int, int]:
    """Wait for a process, and kill it at the timeout; return its peak memory in KiB and its exit status."""
    deadline, watched = time.monotonic() + timeout, psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        if time.monotonic() > deadline:
            _kill(process)
            return peak, -signal.SIGKILL
        try:
            peak = max(peak, watched.memory_info().rss // 1024)
        except psutil.Error:
            break
        time.sleep(0.02)
    return peak, process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the session of a process, with its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
