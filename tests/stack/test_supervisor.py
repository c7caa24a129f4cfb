"""The supervisor of one service: health, restarts, stops; with small real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stack.compose import HealthCheck, Service
from tests.stack.paths import StackPaths
from tests.stack.stack import Stack
from tests.stack.supervisor import ProcessSpec, Supervisor

SUPERVISORS: list[Supervisor] = []


@pytest.fixture(autouse=True)
def _stop_all() -> Iterator[None]:
    yield
    for supervisor in SUPERVISORS:
        supervisor.stop()
    SUPERVISORS.clear()


def supervise(folder: Path, script: str, check: str = "", **changes: Any) -> Supervisor:
    policy = {"restart": "unless-stopped", "stop_signal": "SIGTERM", "grace_seconds": 5.0, **changes}
    health = HealthCheck((), interval=0.2, timeout=5, retries=2, start_period=0, start_interval=0.05) if check else None
    service = Service(
        name="it", image="", target=None, command=(), environment={}, working_dir=None, files={}, volumes={},
        scratch=(), secrets={}, ports=(), check=health, needs={}, profiles=(), **policy,
    )  # fmt: skip
    words = (sys.executable, "-c", script)
    spec = ProcessSpec(words, (sys.executable, "-c", check), {}, folder, None, folder / "log")
    SUPERVISORS.append(Supervisor(service, spec, threading.Condition()))
    SUPERVISORS[-1].start()
    return SUPERVISORS[-1]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    # Without an init process an orphan stays a zombie.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("restart", "status", "n_starts"), [("no", 1, 1), ("on-failure", 0, 1), ("on-failure", 1, 2)])
def test_service_is_restarted_according_to_its_policy(tmp_path: Path, restart: str, status: int, n_starts: int) -> None:
    script = f"import sys; open('starts', 'a').write('x'); sys.exit({status} if len(open('starts').read()) < 2 else 0)"
    supervisor = supervise(tmp_path, script, restart=restart)
    wait_until(lambda: supervisor.is_over)
    assert (tmp_path / "starts").read_text() == "x" * n_starts
    assert supervisor.meets("service_completed_successfully") == (supervisor.exit_status == 0)


def test_the_state_follows_the_health_check(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, "import time; time.sleep(60)", "open('fine')")
    wait_until(lambda: supervisor.state == "unhealthy")
    (tmp_path / "fine").touch()
    wait_until(lambda: supervisor.meets("service_healthy"))
    (tmp_path / "fine").unlink()
    wait_until(lambda: supervisor.state == "unhealthy")
    assert not supervisor.is_over


IGNORES_SIGTERM = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open("child.new", "w").write(str(child.pid))
os.rename("child.new", "child")
time.sleep(60)
"""


def test_stop_sends_the_signal_then_kills_the_process_and_its_children(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, IGNORES_SIGTERM, grace_seconds=0.3)
    wait_until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    supervisor.stop()
    assert supervisor.exit_status == -signal.SIGKILL
    wait_until(lambda: is_gone(child))
    willing = supervise(tmp_path, "import time; open('ready', 'w'); time.sleep(60)")
    wait_until((tmp_path / "ready").exists)
    willing.stop()
    assert willing.exit_status == -signal.SIGTERM


def test_a_second_interrupt_kills_all_services(tmp_path: Path) -> None:
    stack = Stack({}, StackPaths(tmp_path, tmp_path, {}))
    stack.supervisors["first"] = supervise(tmp_path, IGNORES_SIGTERM, grace_seconds=20)
    stack.supervisors["it"] = supervise(tmp_path, IGNORES_SIGTERM, grace_seconds=20)
    wait_until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), stack:
        pass
    wait_until(lambda: all(supervisor.is_over for supervisor in stack.supervisors.values()))
    wait_until(lambda: is_gone(child))


def test_the_pause_between_restarts_grows(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, "import time; open('starts', 'a').write(f'{time.time()}\\n'); raise SystemExit(1)")
    wait_until(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text().count("\n") == 4)
    at = [float(line) for line in (tmp_path / "starts").read_text().split()]
    assert at[3] - at[2] > 0.7
    supervisor.stop()
    assert isinstance(supervisor.process, subprocess.Popen)
