"""Copy a database that is in use, and restore the copy as a whole.

SQLite is copied through its own API, Postgres by its client programs.
"""

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
_TIMEOUT_SECONDS = 60
# the suffixes of the files that SQLite keeps beside a database, and applies to whatever database has that name
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
# the functions in the schema `public` that belong to no extension, such as those that MLflow's triggers call
_ROUTINES = text("""
    SELECT CAST(CAST(oid AS regprocedure) AS text) FROM pg_proc
    WHERE pronamespace = CAST('public' AS regnamespace)
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = CAST('pg_proc' AS regclass) AND objid = oid AND deptype = 'e')
""")
# report only problems, and do not wait forever for a table that another process has locked
_BEGIN = ("BEGIN;", "SET client_min_messages = warning;", "SET lock_timeout = '30s';")
_HEAD_BYTES = 4096
_READY = "ready\n"
# with named parameters SQLAlchemy does not double the percent signs
_SCRIPT_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def database_kind(url: str) -> Kind:
    """Return the kind of a database.

    Raises:
        ConfigError: the URL names neither SQLite nor Postgres.
    """
    if sqlite_file(url) is not None:
        return "sqlite"
    if url.startswith(("postgresql://", "postgresql+pg8000://")):
        return "postgres"
    raise ConfigError(
        f"{without_password(url)}: neither sqlite:///file.db nor postgresql://…; for an MLflow server, give the URL of "
        "its database"
    )


@contextmanager
def open_connection(url: str) -> Iterator[Connection]:
    """Connect to a database without migrating it: it may be MLflow's or the service's.

    Raises:
        BackupError: the database does not exist or does not answer.
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
    """Write a consistent copy of a database into a new file, while others may use the database.

    Raises:
        BackupError: the database does not exist, is damaged or cannot be read.
    """
    if database_kind(url) == "sqlite":
        _copy_sqlite(url, file)
    else:
        _run_client("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={file}")


def is_occupied(url: str) -> bool:
    """Return whether a restore would overwrite something: a SQLite file, the log of a deleted one, or Postgres tables.

    Raises:
        BackupError: Postgres does not answer.
    """
    file = sqlite_path(url)
    if file is not None:
        return any(file.with_name(file.name + end).exists() for end in ("", *LOG_SUFFIXES))
    with open_connection(url) as connection:
        return bool(inspect(connection).get_table_names())


def check_not_in_use(url: str) -> None:
    """Raise BackupError if another process has a SQLite database open in WAL mode, or is writing to it."""
    file = sqlite_path(url)
    try:
        if file is not None and file.exists():
            _checkpoint_sqlite(file)
    except sqlite3.OperationalError as error:
        raise BackupError(
            f"{file}: is in use ({error}); stop the service and all other programs that use it"
        ) from error


def update_sqlite_copy(copy: Path, changes: Sequence[Update]) -> None:
    """Apply updates to a copy of a SQLite database that nobody else has open.

    Raises:
        BackupError: an update fails, for example because a table is missing.
    """
    try:
        engine = create_engine(f"sqlite:///{copy}", poolclass=NullPool)
        with engine.begin() as connection:
            for change in changes:
                connection.execute(change)
    except SQLAlchemyError as error:
        raise BackupError(f"{copy.name}: cannot be changed ({error}); take another backup") from error


@contextmanager
def replace_postgres(url: str, copy: Path, changes: Sequence[Update] = ()) -> Iterator[Callable[[], None]]:
    """Replace a Postgres database's contents by a copy, in a transaction; yield a function that commits it.

    Before the commit others see the old contents. The old contents stay if the function is never called, or if this
    process is killed.

    Args:
        url: the URL of the database.
        copy: a file that `copy_database` wrote.
        changes: updates to run in the same transaction, after the copy is restored.

    Raises:
        BackupError: the copy cannot be read, a client program is missing, or the database does not answer or reports
            an error.
    """
    with tempfile.TemporaryDirectory(dir=copy.parent) as temporary:
        folder = Path(temporary)
        files = [f"--file={script}" for script in (*_write_scripts(url, copy, changes, folder), "-")]
        command, environment = _client("psql", url)
        with (
            # a file and not a pipe: psql would block on a full pipe that nobody reads
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

            def finish(statements: str) -> None:
                psql.communicate(statements)
                errors.seek(0)
                _check_status(url, psql.returncode, errors.read())

            try:
                if _READY not in (psql.stdout or ()):
                    finish("")
                yield lambda: finish("COMMIT;\n")
            finally:
                # an uncommitted transaction is rolled back when its client ends
                psql.kill()


def _write_scripts(url: str, copy: Path, changes: Sequence[Update], folder: Path) -> list[Path]:
    """Write the scripts that empty a database, fill it and update it, in a transaction that stays open."""
    scripts = [folder / name for name in ("before.sql", "copy.sql", "after.sql")]
    with open_connection(url) as connection:
        names = inspect(connection).get_table_names()
        routines = connection.execute(_ROUTINES).scalars().all()
        version = connection.dialect.server_version_info or ()
    quoted = ", ".join(_SCRIPT_DIALECT.identifier_preparer.quote(name) for name in names)
    drops = [f"DROP TABLE {quoted} CASCADE;"] if names else []
    drops += [f"DROP ROUTINE {routine};" for routine in routines]
    scripts[0].write_text("\n".join([*_BEGIN, *drops]), encoding="utf-8")
    _run_client("pg_restore", None, "--no-owner", "--no-privileges", f"--file={scripts[1]}", str(copy))
    if version < (17,):
        _comment_out_setting(scripts[1], b"transaction_timeout")
    updates = [
        f"{change.compile(dialect=_SCRIPT_DIALECT, compile_kwargs={'literal_binds': True})};" for change in changes
    ]
    # the script of pg_restore sets an empty search path
    scripts[2].write_text("\n".join(["SET search_path = public;", *updates, f"\\echo {_READY}"]), encoding="utf-8")
    return scripts


def _comment_out_setting(script: Path, name: bytes) -> None:
    """Comment out a setting that newer client programs write and older servers do not know."""
    with script.open("r+b") as file:
        # the settings come before the first query and all data
        head, _, _ = file.read(_HEAD_BYTES).partition(b"\nSELECT ")
        at = head.find(b"\nSET " + name)
        if at >= 0:
            file.seek(at)
            file.write(b"\n-- ")


def sqlite_path(url: str) -> Path | None:
    """Return the real path of a SQLite database, beside which its logs lie; None for Postgres."""
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
            closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_SECONDS)) as live,
            closing(sqlite3.connect(file)) as copy,
        ):
            # in one step: in several, SQLite starts over whenever another process writes
            live.backup(copy)
            # so that the copy is a single file, without logs
            copy.execute("PRAGMA journal_mode=DELETE")
            (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source}: cannot be copied ({error}); is it damaged, or the disk full?") from error
    if found != "ok":
        raise BackupError(f"{source}: is damaged ({found}); restore an earlier backup")


def _checkpoint_sqlite(target: Path) -> None:
    """Move the contents of a database's log into its file; SQLite refuses this while others have the database open."""
    try:
        with closing(sqlite3.connect(target, timeout=1, isolation_level=None)) as old:
            old.execute("PRAGMA journal_mode=DELETE")
            old.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        raise
    # a damaged database is going to be replaced anyway
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
    _check_status(url or program, done.returncode, done.stderr)


def _client(program: str, url: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the first arguments of a client program's command line, and its environment."""
    path = shutil.which(program)
    if path is None:
        raise BackupError(
            f"{program} is not installed: install Postgres' client programs, at least as new as the server "
            "(apt install postgresql-client)"
        )
    if url is None:
        return [path], {**os.environ}
    # the password goes into the environment, because every user can list the arguments of processes
    return [path, "--no-password"], {**os.environ, **_connection(url)}


def _check_status(shown: str, status: int, errors: str) -> None:
    if status:
        reason = (errors.strip().splitlines() or [f"exit status {status}"])[0]
        raise BackupError(f"{without_password(shown)}: {reason}")


def _connection(url: str) -> dict[str, str]:
    """Return a database's URL as the environment variables of Postgres' client library."""
    parsed = database_url(url)
    if parsed.query:
        raise ConfigError(
            f"{without_password(url)}: set {list(parsed.query)} with Postgres' own variables, such as PGSSLMODE"
        )
    variables = {
        "PGHOST": parsed.host,
        "PGPORT": parsed.port,
        "PGUSER": parsed.username,
        "PGPASSWORD": parsed.password,
        "PGDATABASE": parsed.database,
    }
    return {name: str(value) for name, value in variables.items() if value is not None}
