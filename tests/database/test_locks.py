"""Turns: whoever comes second waits, however it spells the place; a turn that is lost is noticed."""

import subprocess
import sys
from pathlib import Path

import pytest

from forecaster.database.locks import one_at_a_time
from forecaster.domain.errors import StoreUnavailable
from tests.conftest import ROOT
from tests.postgres import postgres_server

WAITS = """
import sys
from forecaster.database.locks import one_at_a_time
def say():
    print("waits", flush=True)
    sys.exit()
with one_at_a_time(sys.argv[1], "sine", say):
    print("has it")
"""


def second(uri: str, folder: Path) -> str:
    """Return what becomes of another process that asks for the same turn."""
    command = [sys.executable, "-c", WAITS, uri]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_one_place_has_one_turn_however_it_is_spelt(postgres: str, tmp_path: Path) -> None:
    spellings = {
        f"sqlite:///{tmp_path}/mlflow.db": "sqlite:///mlflow.db",
        postgres: postgres.replace("127.0.0.1", "localhost"),
    }
    for one, other in spellings.items():
        assert one != other
        with one_at_a_time(one, "sine"):
            assert second(other, tmp_path) == "waits"
        assert second(other, tmp_path) == "has it"


def test_a_turn_that_the_database_has_lost_is_noticed_and_hides_no_other_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with postgres_server() as server:
        with one_at_a_time(server.uri, "sine") as check:
            check()
            server.stop()
            server.start()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                check()
        with pytest.raises(ValueError, match="what went wrong"), one_at_a_time(server.uri, "sine"):
            server.stop()
            raise ValueError("what went wrong")
        server.start()
    assert not caplog.records
