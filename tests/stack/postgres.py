"""Run Postgres like its image does, with this machine's programs: initialise the folder and run the scripts once."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _programs() -> Path | None:
    """Return the folder of Postgres' programs, of the newest version; Debian does not put them on the PATH."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


PROGRAMS = _programs()


def account() -> str | None:
    """Return the account that the server must run as, None for this process' account; it refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


def prepare(data: Path, scripts: Path, environment: Mapping[str, str], log: Path) -> None:
    """Initialise the server's folder if it is empty, and run the scripts against a server that nobody else can reach.

    Args:
        data: the folder, which the server's account can write.
        scripts: the folder of shell scripts, which run in the order of their names.
        environment: the image's `POSTGRES_…` variables, and the variables that the scripts read.
        log: the file that the programs write to.

    Raises:
        CalledProcessError: a program or a script failed; the log says why.
    """
    if PROGRAMS is None or (data / "PG_VERSION").exists():
        return
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="pg") as sockets, log.open("ab") as output:
        owner = account()
        if owner:
            shutil.chown(sockets, owner, owner)
        variables = {**environment, "PGHOST": sockets}

        def run(*words: Any, text: bytes = b"") -> None:
            who: dict[str, Any] = {"user": owner, "group": owner} if owner else {}
            subprocess.run(
                words, check=True, cwd=sockets, env=variables, stdout=output, stderr=output, input=text, **who
            )

        user, secret = environment["POSTGRES_USER"], environment["POSTGRES_PASSWORD_FILE"]
        options = environment.get("POSTGRES_INITDB_ARGS", "").split()
        run(PROGRAMS / "initdb", "-D", data, "-U", user, f"--pwfile={secret}", *options)
        control = (PROGRAMS / "pg_ctl", "-D", data, "-w")
        run(*control, "-o", f"-c listen_addresses='' -c unix_socket_directories={sockets}", "start")
        try:
            for script in sorted(scripts.glob("*.sh")):
                run("/bin/sh", "-s", text=script.read_bytes())
        except BaseException:
            run(*control, "-m", "immediate", "stop")
            # The next start would take the incomplete folder for a complete one.
            shutil.rmtree(data)
            raise
        run(*control, "-m", "fast", "stop")


def command(programs: Path, data: Path, address: str) -> list[str]:
    """Return the command line of a server that listens on `address`."""
    options = [f"listen_addresses={address}", "unix_socket_directories="]
    return [str(programs / "postgres"), "-D", str(data), *(word for one in options for word in ("-c", one))]
