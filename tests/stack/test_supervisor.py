"""One service kept running: health, restarts, ends, by small real processes."""

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

from tests.stack.compose import Check, Service
from tests.stack.paths import Places
from tests.stack.stack import Stack
from tests.stack.supervisor import Launch, Supervisor

SUPERVISORS: list[Supervisor] = []


@pytest.fixture(autouse=True)
def _all_end() -> Iterator[None]:
    yield
    for supervisor in SUPERVISORS:
        supervisor.stop()
    SUPERVISORS.clear()


def kept(folder: Path, script: str, check: str = "", **changes: Any) -> Supervisor:
    how = {"restart": "unless-stopped", "stop_signal": "SIGTERM", "grace_seconds": 5.0, **changes}
    health = Check((), interval=0.2, timeout=5, retries=2, start_period=0, start_interval=0.05) if check else None
    service = Service(
        name="it", image="", target=None, command=(), environment={}, working_dir=None, files={}, volumes={},
        scratch=(), secrets={}, ports=(), check=health, needs={}, profiles=(), **how,
    )  # fmt: skip
    words = (sys.executable, "-c", script)
    launch = Launch(words, (sys.executable, "-c", check), {}, folder, None, folder / "log")
    SUPERVISORS.append(Supervisor(service, launch, threading.Condition()))
    SUPERVISORS[-1].start()
    return SUPERVISORS[-1]


def until(is_so: Any) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    # what nobody waits for stays as a zombie where there is no init
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("restart", "status", "n_starts"), [("no", 1, 1), ("on-failure", 0, 1), ("on-failure", 1, 2)])
def test_it_is_started_again_as_its_policy_says(tmp_path: Path, restart: str, status: int, n_starts: int) -> None:
    script = f"import sys; open('starts', 'a').write('x'); sys.exit({status} if len(open('starts').read()) < 2 else 0)"
    supervisor = kept(tmp_path, script, restart=restart)
    until(lambda: supervisor.is_over)
    assert (tmp_path / "starts").read_text() == "x" * n_starts
    assert supervisor.is_met("service_completed_successfully") == (supervisor.exit_status == 0)


def test_its_health_follows_what_the_check_says(tmp_path: Path) -> None:
    supervisor = kept(tmp_path, "import time; time.sleep(60)", "open('fine')")
    until(lambda: supervisor.state == "unhealthy")
    (tmp_path / "fine").touch()
    until(lambda: supervisor.is_met("service_healthy"))
    (tmp_path / "fine").unlink()
    until(lambda: supervisor.state == "unhealthy")
    assert not supervisor.is_over


DEAF = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open("child.new", "w").write(str(child.pid))
os.rename("child.new", "child")
time.sleep(60)
"""


def test_it_is_asked_first_and_killed_when_its_time_is_over_with_its_children(tmp_path: Path) -> None:
    supervisor = kept(tmp_path, DEAF, grace_seconds=0.3)
    until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    supervisor.stop()
    assert supervisor.exit_status == -signal.SIGKILL
    until(lambda: is_gone(child))
    willing = kept(tmp_path, "import time; open('ready', 'w'); time.sleep(60)")
    until((tmp_path / "ready").exists)
    willing.stop()
    assert willing.exit_status == -signal.SIGTERM


def test_who_cannot_wait_interrupts_a_second_time_and_nothing_is_left(tmp_path: Path) -> None:
    stack = Stack({}, Places(tmp_path, tmp_path, {}))
    stack.supervisors["first"] = kept(tmp_path, DEAF, grace_seconds=20)
    stack.supervisors["it"] = kept(tmp_path, DEAF, grace_seconds=20)
    until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), stack:
        pass
    until(lambda: all(supervisor.is_over for supervisor in stack.supervisors.values()))
    until(lambda: is_gone(child))


def test_a_start_that_fails_is_tried_again_ever_more_slowly(tmp_path: Path) -> None:
    supervisor = kept(tmp_path, "import time; open('starts', 'a').write(f'{time.time()}\\n'); raise SystemExit(1)")
    until(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text().count("\n") == 4)
    at = [float(line) for line in (tmp_path / "starts").read_text().split()]
    assert at[3] - at[2] > 0.7
    supervisor.stop()
    assert isinstance(supervisor.process, subprocess.Popen)
