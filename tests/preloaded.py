"""Commands in processes that are forked from one that has imported TensorFlow and MLflow.

The imports take a third of a short training's time. In all else a command runs as by `python -m`: in a process of its
own, with a folder, an environment, an output and an exit status of its own.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
# commands that train
COMMANDS = frozenset(f"pipelines.{name}" for name in ("backtest", "contest", "promote", "retrain", "train"))
_IMPORTED = ["keras", "mlflow.onnx", "ndonnx", "spox", "pandas", "scipy.stats", *COMMANDS]
_OUTPUT = tempfile.TemporaryDirectory()


class PreloadedProcess:
    """A command that was started, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, arguments: list[str], cwd: Path) -> None:
        self.args = [module, *arguments]
        folder = Path(tempfile.mkdtemp(dir=_OUTPUT.name))
        self._files = [folder / name for name in ("stdout", "stderr")]
        self._process = _context().Process(target=_run, args=(module, arguments, cwd, dict(os.environ), self._files))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        return out, err


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(ROOT)}):
        forkserver.ensure_running()
    return context


def _run(module: str, arguments: list[str], cwd: Path, environment: dict[str, str], files: list[Path]) -> None:
    streams: list[Any] = [file.open("w", buffering=1) for file in files]
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = streams
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
