"""Postgres as its image starts it, with this machine's programs: the folder made once, the scripts run once."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _programs() -> Path | None:
    """Return the folder of Postgres' programs, the newest where there are several; Debian has them on no path."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


PROGRAMS = _programs()


def account() -> str | None:
    """Return whose account the server runs as, if it must be another: it refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


def prepare(data: Path, scripts: Path, environment: Mapping[str, str], log: Path) -> None:
    """Make a server's folder, if it is empty, and run the scripts as the image does: with nobody else let in.

    Args:
        data: the folder, which the server's account can write.
        scripts: shell scripts, run in the order of their names.
        environment: the image's `POSTGRES_…` variables, and what the scripts read.
        log: where the programs write.

    Raises:
        CalledProcessError: a program or a script failed; the log says how.
    """
    if PROGRAMS is None or (data / "PG_VERSION").exists():
        return
    # a socket's path must be short
    with tempfile.TemporaryDirectory(prefix="pg") as draft, log.open("ab") as said:
        owner = account()
        if owner:
            shutil.chown(draft, owner, owner)
        variables = {**environment, "PGHOST": draft}

        def run(*words: Any, text: bytes = b"") -> None:
            who: dict[str, Any] = {"user": owner, "group": owner} if owner else {}
            subprocess.run(words, check=True, cwd=draft, env=variables, stdout=said, stderr=said, input=text, **who)

        user, secret = environment["POSTGRES_USER"], environment["POSTGRES_PASSWORD_FILE"]
        options = environment.get("POSTGRES_INITDB_ARGS", "").split()
        run(PROGRAMS / "initdb", "-D", data, "-U", user, f"--pwfile={secret}", *options)
        control = (PROGRAMS / "pg_ctl", "-D", data, "-w")
        run(*control, "-o", f"-c listen_addresses='' -c unix_socket_directories={draft}", "start")
        try:
            for script in sorted(scripts.glob("*.sh")):
                run("/bin/sh", "-s", text=script.read_bytes())
        except BaseException:
            run(*control, "-m", "immediate", "stop")
            # half made, it would be taken for whole the next time
            shutil.rmtree(data)
            raise
        run(*control, "-m", "fast", "stop")


def command(programs: Path, data: Path, address: str) -> list[str]:
    """Return the command line of a server that listens on `address`."""
    options = [f"listen_addresses={address}", "unix_socket_directories="]
    return [str(programs / "postgres"), "-D", str(data), *(word for one in options for word in ("-c", one))]
