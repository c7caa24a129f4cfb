"""The documentation's commands for an upgrade: the dump restores the databases from before the upgrade."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect, make_url, text

from forecaster.database.engine import transaction
from forecaster.database.schema import open_database
from tests.backup.installation import fill_ledger, sizes
from tests.postgres import PASSWORD, postgres_server
from tests.stack.postgres import PROGRAMS

ROOT = Path(__file__).parents[2]
# runs the local client programs instead of those in a container; git and make do nothing
STAND_IN = """#!/bin/sh
[ "$1 $2 $3 $4" = "compose exec -T postgres" ] || exit 0
shift 4
exec "$@"
"""
CREATE = (
    f"CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '{PASSWORD}'",
    "CREATE ROLE mlflow",
    "CREATE DATABASE forecaster",
    "CREATE DATABASE mlflow OWNER mlflow",
    "REVOKE ALL ON DATABASE mlflow FROM PUBLIC",
)


def blocks() -> list[str]:
    """Return the indented command blocks of the documentation's section on upgrades in Compose."""
    section = (ROOT / "docs/operations/upgrade.md").read_text().partition("\n## In Compose\n")[2].partition("\n## ")[0]
    return re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
def test_documented_commands_undo_an_upgrade(tmp_path: Path) -> None:
    dump_commands, restore_commands = blocks()
    for name in ("docker", "git", "make"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    with postgres_server() as server:
        url = make_url(server.uri)
        engine = create_engine(server.uri, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in CREATE:
                connection.execute(text(statement))
        connect = {"PGHOST": str(url.host), "PGPORT": str(url.port), "PGPASSWORD": PASSWORD}
        environment = {**os.environ, **connect, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

        def run(commands: str) -> subprocess.CompletedProcess[str]:
            script = f"umask 022\n{commands} && umask"
            return subprocess.run(
                ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )

        ledger = server.uri.replace("/postgres", "/forecaster")
        fill_ledger(ledger)
        before = sizes(ledger)
        done = run(dump_commands.strip())
        assert done.returncode == 0, done.stderr
        # later commands have the usual umask
        assert done.stdout.strip() == "0022"
        dump = tmp_path / "backups" / "before.sql"
        assert (dump.stat().st_mode & 0o777, dump.parent.stat().st_mode & 0o777) == (0o600, 0o700)

        fill_ledger(ledger)
        with open_database(ledger) as upgraded, transaction(upgraded) as connection:
            connection.execute(text("ALTER TABLE keys ADD COLUMN of_a_later_program integer"))
        with engine.connect() as connection:
            connection.execute(text("DROP DATABASE mlflow"))
        # a second dump does not overwrite the first
        assert run(dump_commands.strip()).returncode != 0
        done = run(restore_commands.strip())
        assert done.returncode == 0, done.stderr
        assert sizes(ledger) == before
        with open_database(ledger) as again, transaction(again) as connection:
            assert "of_a_later_program" not in {column["name"] for column in inspect(connection).get_columns("keys")}
        owner = text(
            "SELECT pg_get_userbyid(datdba), has_database_privilege('mlflow', 'forecaster', 'CONNECT') FROM pg_database"
            " WHERE datname = 'mlflow'"
        )
        with engine.connect() as connection:
            assert connection.execute(owner).all() == [("mlflow", True)]
        # a failing restore has an exit status
        dump.write_text("SELECT 1/0;\n" + dump.read_text())
        assert run(restore_commands.strip()).returncode != 0
