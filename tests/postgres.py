"""A real Postgres server for the tests: made, started and stopped by them, or a reason why not."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

from tests.stack.postgres import PROGRAMS

PASSWORD = "a p@ss:word"


def is_installed() -> bool:
    """Say whether there can be a server."""
    return PROGRAMS is not None


@dataclass(frozen=True)
class Server:
    """A server that can be stopped and started again."""

    uri: str
    control: Callable[..., object]

    def start(self) -> None:
        self.control("start")

    def stop(self) -> None:
        self.control("-m", "immediate", "stop")


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Yield a new server, without durability, which the tests' speed is worth."""
    assert PROGRAMS is not None
    # Postgres refuses to run as root
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as draft, socket.socket() as free:
        folder = Path(draft)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if owner:
            for path in (folder, secret):
                shutil.chown(path, owner["user"], owner["group"])
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": folder, **owner}
        made: list[Any] = [PROGRAMS / "initdb", "-D", folder / "data", "-U", "forecaster", "-A", "scram-sha-256"]
        subprocess.run([*made, f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"], check=True, **quiet)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        control: list[Any] = [PROGRAMS / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options]
        server = Server(
            f"postgresql+pg8000://forecaster:a%20p%40ss%3Aword@127.0.0.1:{port}/postgres",
            lambda *words: subprocess.run([*control, *words], check=True, **quiet),
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


def fresh_database(uri: str) -> str:
    """Return the URI of a new, empty database of the same server."""
    name = f"d{secrets.token_hex(6)}"
    engine = create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{uri.rpartition('/')[0]}/{name}"
