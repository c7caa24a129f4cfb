"""The upgrade's own dump, by the documentation's commands, undoes what an upgrade did to the databases."""

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
# in a container's place, the client programs here; git and make have nothing to do
STAND_IN = """#!/bin/sh
[ "$1 $2 $3 $4" = "compose exec -T postgres" ] || exit 0
shift 4
exec "$@"
"""
MADE = (
    f"CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '{PASSWORD}'",
    "CREATE ROLE mlflow",
    "CREATE DATABASE forecaster",
    "CREATE DATABASE mlflow OWNER mlflow",
    "REVOKE ALL ON DATABASE mlflow FROM PUBLIC",
)


def blocks() -> list[str]:
    """Return the indented commands of the documentation's upgrade, a text for each paragraph of them."""
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n## Upgrade\n")[2].partition("\n## ")[0]
    return re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
def test_what_an_upgrade_did_to_the_databases_is_undone(tmp_path: Path) -> None:
    there, back = blocks()
    for name in ("docker", "git", "make"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    with postgres_server() as server:
        url = make_url(server.uri)
        engine = create_engine(server.uri, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in MADE:
                connection.execute(text(statement))
        reached = {"PGHOST": str(url.host), "PGPORT": str(url.port), "PGPASSWORD": PASSWORD}
        environment = {**os.environ, **reached, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

        def follow(commands: str) -> subprocess.CompletedProcess[str]:
            script = f"umask 022\n{commands} && umask"
            return subprocess.run(
                ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )

        ledger = server.uri.replace("/postgres", "/forecaster")
        fill_ledger(ledger)
        before = sizes(ledger)
        done = follow(there.strip())
        assert done.returncode == 0, done.stderr
        # what comes after is written as ever
        assert done.stdout.strip() == "0022"
        dump = tmp_path / "backups" / "before.sql"
        assert (dump.stat().st_mode & 0o777, dump.parent.stat().st_mode & 0o777) == (0o600, 0o700)

        fill_ledger(ledger)
        with open_database(ledger) as upgraded, transaction(upgraded) as connection:
            connection.execute(text("ALTER TABLE keys ADD COLUMN of_a_later_program integer"))
        with engine.connect() as connection:
            connection.execute(text("DROP DATABASE mlflow"))
        # a second one does not write over the first
        assert follow(there.strip()).returncode != 0
        done = follow(back.strip())
        assert done.returncode == 0, done.stderr
        assert sizes(ledger) == before
        with open_database(ledger) as again, transaction(again) as connection:
            assert "of_a_later_program" not in {one["name"] for one in inspect(connection).get_columns("keys")}
        owner = text(
            "SELECT pg_get_userbyid(datdba), has_database_privilege('mlflow', 'forecaster', 'CONNECT') FROM pg_database"
            " WHERE datname = 'mlflow'"
        )
        with engine.connect() as connection:
            assert connection.execute(owner).all() == [("mlflow", True)]
        # what cannot be put back says so
        dump.write_text("SELECT 1/0;\n" + dump.read_text())
        assert follow(back.strip()).returncode != 0
