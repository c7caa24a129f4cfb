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

from deploy.compose import Check, Service
from deploy.keeper import Keeper, Launch
from deploy.places import Places
from deploy.stack import Stack

KEEPERS: list[Keeper] = []


@pytest.fixture(autouse=True)
def _all_end() -> Iterator[None]:
    yield
    for keeper in KEEPERS:
        keeper.stop()
    KEEPERS.clear()


def kept(folder: Path, script: str, check: str = "", **changes: Any) -> Keeper:
    how = {"restart": "unless-stopped", "stop_signal": "SIGTERM", "grace_seconds": 5.0, **changes}
    health = Check((), interval=0.2, timeout=5, retries=2, start_period=0, start_interval=0.05) if check else None
    service = Service(
        name="it", image="", target=None, command=(), environment={}, working_dir=None, files={}, volumes={},
        scratch=(), secrets={}, ports=(), check=health, needs={}, profiles=(), **how,
    )  # fmt: skip
    words = (sys.executable, "-c", script)
    launch = Launch(words, (sys.executable, "-c", check), {}, folder, None, folder / "log")
    KEEPERS.append(Keeper(service, launch, threading.Condition()))
    KEEPERS[-1].start()
    return KEEPERS[-1]


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
    keeper = kept(tmp_path, script, restart=restart)
    until(lambda: keeper.is_over)
    assert (tmp_path / "starts").read_text() == "x" * n_starts
    assert keeper.is_met("service_completed_successfully") == (keeper.exit_status == 0)


def test_its_health_follows_what_the_check_says(tmp_path: Path) -> None:
    keeper = kept(tmp_path, "import time; time.sleep(60)", "open('fine')")
    until(lambda: keeper.state == "unhealthy")
    (tmp_path / "fine").touch()
    until(lambda: keeper.is_met("service_healthy"))
    (tmp_path / "fine").unlink()
    until(lambda: keeper.state == "unhealthy")
    assert not keeper.is_over


DEAF = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open("child.new", "w").write(str(child.pid))
os.rename("child.new", "child")
time.sleep(60)
"""


def test_it_is_asked_first_and_killed_when_its_time_is_over_with_its_children(tmp_path: Path) -> None:
    keeper = kept(tmp_path, DEAF, grace_seconds=0.3)
    until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    keeper.stop()
    assert keeper.exit_status == -signal.SIGKILL
    until(lambda: is_gone(child))
    willing = kept(tmp_path, "import time; open('ready', 'w'); time.sleep(60)")
    until((tmp_path / "ready").exists)
    willing.stop()
    assert willing.exit_status == -signal.SIGTERM


def test_who_cannot_wait_interrupts_a_second_time_and_nothing_is_left(tmp_path: Path) -> None:
    stack = Stack({}, Places(tmp_path, tmp_path, {}))
    stack.keepers["first"] = kept(tmp_path, DEAF, grace_seconds=20)
    stack.keepers["it"] = kept(tmp_path, DEAF, grace_seconds=20)
    until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), stack:
        pass
    until(lambda: all(keeper.is_over for keeper in stack.keepers.values()))
    until(lambda: is_gone(child))


def test_a_start_that_fails_is_tried_again_ever_more_slowly(tmp_path: Path) -> None:
    keeper = kept(tmp_path, "import time; open('starts', 'a').write(f'{time.time()}\\n'); raise SystemExit(1)")
    until(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text().count("\n") == 4)
    at = [float(line) for line in (tmp_path / "starts").read_text().split()]
    assert at[3] - at[2] > 0.7
    keeper.stop()
    assert isinstance(keeper.process, subprocess.Popen)
