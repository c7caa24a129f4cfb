"""Exclusive locks: a second process waits, however it spells the URI, and a lost lock is noticed."""

import subprocess
import sys
from pathlib import Path

import pytest

from forecaster.database.locks import exclusive_lock
from forecaster.domain.errors import StoreUnavailable
from tests.conftest import ROOT
from tests.postgres import postgres_server

SECOND_PROCESS = """
import sys
from forecaster.database.locks import exclusive_lock
def on_wait():
    print("waits", flush=True)
    sys.exit()
with exclusive_lock(sys.argv[1], "sine", on_wait):
    print("acquires")
"""


def second_process(uri: str, folder: Path) -> str:
    """Return whether another process `waits` for the lock or `acquires` it."""
    command = [sys.executable, "-c", SECOND_PROCESS, uri]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_second_process_waits_however_it_spells_the_uri(postgres: str, tmp_path: Path) -> None:
    spellings = {
        f"sqlite:///{tmp_path}/mlflow.db": "sqlite:///mlflow.db",
        postgres: postgres.replace("127.0.0.1", "localhost"),
    }
    for uri, other in spellings.items():
        assert uri != other
        with exclusive_lock(uri, "sine"):
            assert second_process(other, tmp_path) == "waits"
        assert second_process(other, tmp_path) == "acquires"


def test_a_lock_lost_by_the_database_is_noticed_and_hides_no_other_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with postgres_server() as server:
        with exclusive_lock(server.uri, "sine") as check:
            check()
            server.stop()
            server.start()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                check()
        with pytest.raises(ValueError, match="what went wrong"), exclusive_lock(server.uri, "sine"):
            server.stop()
            raise ValueError("what went wrong")
        server.start()
    assert not caplog.records
