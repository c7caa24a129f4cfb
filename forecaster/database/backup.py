"""A database copied while others use it, and put back as a whole: SQLite by itself, Postgres by its client programs."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, NullPool, Update, create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from forecaster.database.uris import database_url, sqlite_file, without_password
from forecaster.domain.errors import BackupError, ConfigError

Kind = Literal["sqlite", "postgres"]
_PATIENCE_SECONDS = 60
# what SQLite keeps beside a database, called as it is but for these ends, and plays into whatever file comes there
LOGS = ("-wal", "-shm", "-journal")
# with the quoting of a script, in which a percent sign is one
_ROUTINES = text("""
    SELECT CAST(CAST(oid AS regprocedure) AS text) FROM pg_proc
    WHERE pronamespace = CAST('public' AS regnamespace)
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = CAST('pg_proc' AS regclass) AND objid = oid AND deptype = 'e')
""")
# of a transaction that says only what is wrong, and does not wait for ever for somebody who holds a table
_BEGIN = ("BEGIN;", "SET client_min_messages = warning;", "SET lock_timeout = '30s';")
_HEAD_BYTES = 4096
_READY = "ready\n"
_SCRIPT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def kind_of(url: str) -> Kind:
    """Return of which kind a database is.

    Raises:
        ConfigError: of neither that can be copied.
    """
    if sqlite_file(url) is not None:
        return "sqlite"
    if url.startswith(("postgresql://", "postgresql+pg8000://")):
        return "postgres"
    raise ConfigError(
        f"{without_password(url)}: neither sqlite:///file.db nor postgresql://…; of a server, give its database's URL"
    )


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Open a database to look at it, as it is and whosever it is.

    Raises:
        BackupError: it is not there or does not answer.
    """
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        raise BackupError(f"{url}: there is no such database; correct its URL")
    try:
        engine = create_engine(database_url(_driver(url)), poolclass=NullPool)
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise BackupError(f"{without_password(url)}: the database does not answer ({reason}); is it up?") from error


def copy_database(url: str, file: Path) -> None:
    """Write a consistent copy of a database, as it was at one instant, into a new file; others go on using it.

    Raises:
        BackupError: it is not there, is damaged or cannot be read.
    """
    if kind_of(url) == "sqlite":
        _copy_sqlite(url, file)
    else:
        _run_client("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={file}")


def is_occupied(url: str) -> bool:
    """Say whether there is something already: a file, or a log that one has left behind, or tables in Postgres.

    Raises:
        BackupError: Postgres does not answer.
    """
    file = file_of(url)
    if file is not None:
        return any(file.with_name(file.name + end).exists() for end in ("", *LOGS))
    with reading(url) as connection:
        return bool(inspect(connection).get_table_names())


def refuse_in_use(url: str) -> None:
    """Raise BackupError where somebody has a SQLite database open that logs ahead, or is writing to any."""
    file = file_of(url)
    try:
        if file is not None and file.exists():
            _settle_sqlite(file)
    except sqlite3.OperationalError as error:
        raise BackupError(f"{file}: is in use ({error}); stop the service and whatever else uses it") from error


def change_sqlite(copy: Path, changes: Sequence[Update]) -> None:
    """Change a copy of a SQLite database, which nobody else has open.

    Raises:
        BackupError: it is not what it must be.
    """
    try:
        engine = create_engine(f"sqlite:///{copy}", poolclass=NullPool)
        with engine.begin() as connection:
            for change in changes:
                connection.execute(change)
    except SQLAlchemyError as error:
        raise BackupError(f"{copy.name}: cannot be changed ({error}); take another backup") from error


@contextmanager
def replacing_postgres(url: str, copy: Path, changes: Sequence[Update] = ()) -> Iterator[Callable[[], None]]:
    """Make a database what a copy says, in a transaction; yield what commits it.

    Until then others see what was there, and it stays if that is never called, or this process is killed.

    Args:
        url: of Postgres.
        copy: as `copy_database` wrote it.
        changes: made in the same transaction.

    Raises:
        BackupError: the copy cannot be read, a client program is missing, the database does not answer or refuses.
    """
    with tempfile.TemporaryDirectory(dir=copy.parent) as draft:
        folder = Path(draft)
        files = [f"--file={script}" for script in (*_write_scripts(url, copy, changes, folder), "-")]
        command, environment = _client("psql", url)
        with (
            # read when it has ended, so that it never waits for somebody to read
            Path(folder, "errors").open("w+", encoding="utf-8", errors="replace") as errors,
            subprocess.Popen(  # noqa: S603
                [*command, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", *files],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as psql,
        ):

            def end(text: str) -> None:
                psql.communicate(text)
                errors.seek(0)
                _refuse_failure(url, psql.returncode, errors.read())

            try:
                if _READY not in (psql.stdout or ()):
                    end("")
                yield lambda: end("COMMIT;\n")
            finally:
                # its transaction ends with it
                psql.kill()


def _write_scripts(url: str, copy: Path, changes: Sequence[Update], folder: Path) -> list[Path]:
    """Write what empties a database, fills it and changes it, all in a transaction that stays open."""
    scripts = [folder / name for name in ("before.sql", "copy.sql", "after.sql")]
    with reading(url) as connection:
        names = inspect(connection).get_table_names()
        # such as MLflow's triggers call; not those of extensions
        routines = connection.execute(_ROUTINES).scalars().all()
        version = connection.dialect.server_version_info or ()
    quoted = ", ".join(_SCRIPT.identifier_preparer.quote(name) for name in names)
    drops = [f"DROP TABLE {quoted} CASCADE;"] if names else []
    drops += [f"DROP ROUTINE {routine};" for routine in routines]
    scripts[0].write_text("\n".join([*_BEGIN, *drops]), encoding="utf-8")
    _run_client("pg_restore", None, "--no-owner", "--no-privileges", f"--file={scripts[1]}", str(copy))
    if version < (17,):
        _drop_setting(scripts[1], b"transaction_timeout")
    moved = [f"{one.compile(dialect=_SCRIPT, compile_kwargs={'literal_binds': True})};" for one in changes]
    # the script empties the search path
    scripts[2].write_text("\n".join(["SET search_path = public;", *moved, f"\\echo {_READY}"]), encoding="utf-8")
    return scripts


def _drop_setting(script: Path, name: bytes) -> None:
    """Make a comment of a setting that client programs set, of whichever server, and older servers do not know."""
    with script.open("r+b") as file:
        # the settings are at the head, before the first query and all data
        head, _, _ = file.read(_HEAD_BYTES).partition(b"\nSELECT ")
        at = head.find(b"\nSET " + name)
        if at >= 0:
            file.seek(at)
            file.write(b"\n-- ")


def file_of(url: str) -> Path | None:
    """Return a SQLite database's file, beside which its logs are, whatever links lead to it; of others None."""
    file = sqlite_file(url)
    return file and file.resolve()


def _driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+pg8000://", 1)


def _copy_sqlite(url: str, file: Path) -> None:
    source = sqlite_file(url)
    if source is None or not source.is_file():
        raise BackupError(f"{url}: there is no such database; correct its URL")
    uri = f"{source.resolve().as_uri()}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_SECONDS)) as live,
            closing(sqlite3.connect(file)) as copy,
        ):
            # in one step, so that it need not begin anew with each write of somebody else
            live.backup(copy)
            # one file that needs no other beside it
            copy.execute("PRAGMA journal_mode=DELETE")
            (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source}: cannot be copied ({error}); is it damaged, or the disk full?") from error
    if found != "ok":
        raise BackupError(f"{source}: is damaged ({found}); restore an earlier backup")


def _settle_sqlite(target: Path) -> None:
    """Bring all of a database into its one file, which is refused as long as others have it open; damaged, leave it."""
    try:
        with closing(sqlite3.connect(target, timeout=1, isolation_level=None)) as old:
            old.execute("PRAGMA journal_mode=DELETE")
            old.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        raise
    # damaged, which is why there are backups
    except sqlite3.DatabaseError:
        return


def _run_client(program: str, url: str | None, *arguments: str) -> None:
    command, environment = _client(program, url)
    done = subprocess.run(  # noqa: S603
        [*command, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    _refuse_failure(url or program, done.returncode, done.stderr)


def _client(program: str, url: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the beginning of a client program's command, and its environment."""
    path = shutil.which(program)
    if path is None:
        raise BackupError(
            f"{program} is not installed: install Postgres' client programs, not older than the server "
            "(apt install postgresql-client)"
        )
    if url is None:
        return [path], {**os.environ}
    # in the environment, for anybody may list the arguments of processes
    return [path, "--no-password"], {**os.environ, **_connection(url)}


def _refuse_failure(shown: str, status: int, errors: str) -> None:
    if status:
        reason = (errors.strip().splitlines() or [f"exit status {status}"])[0]
        raise BackupError(f"{without_password(shown)}: {reason}")


def _connection(url: str) -> dict[str, str]:
    """Return a database's URL as the variables of Postgres' client library."""
    parsed = database_url(url)
    if parsed.query:
        raise ConfigError(f"{without_password(url)}: set {list(parsed.query)} by Postgres' own variables, as PGSSLMODE")
    given = {
        "PGHOST": parsed.host,
        "PGPORT": parsed.port,
        "PGUSER": parsed.username,
        "PGPASSWORD": parsed.password,
        "PGDATABASE": parsed.database,
    }
    return {name: str(value) for name, value in given.items() if value is not None}
