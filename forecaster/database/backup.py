"""A database copied while others use it, and put back as a whole: SQLite by itself, Postgres by its client programs."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, NullPool, Update, create_engine, inspect, make_url, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from forecaster.database.uris import sqlite_file, without_password
from forecaster.domain.errors import BackupError, ConfigError

Kind = Literal["sqlite", "postgres"]
_PATIENCE_SECONDS = 60
# what SQLite keeps beside a database, and would play into whatever file comes to lie there
_LOGS = ("-wal", "-shm", "-journal")
# with the quoting of a script, in which a percent sign is one
_ROUTINES = text("""
    SELECT CAST(CAST(oid AS regprocedure) AS text) FROM pg_proc
    WHERE pronamespace = CAST('public' AS regnamespace)
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = CAST('pg_proc' AS regclass) AND objid = oid AND deptype = 'e')
""")
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
        engine = create_engine(_driver(url), poolclass=NullPool)
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
    file = sqlite_file(url)
    if file is not None:
        return any(one.exists() for one in (file, *_logs(file)))
    with reading(url) as connection:
        return bool(inspect(connection).get_table_names())


def refuse_in_use(url: str) -> None:
    """Raise BackupError where somebody has a SQLite database open that logs ahead, or is writing to any."""
    file = sqlite_file(url)
    try:
        if file is not None and file.exists():
            _settle_sqlite(file)
    except sqlite3.OperationalError as error:
        raise BackupError(f"{file}: is in use ({error}); stop the service and whatever else uses it") from error


def put_back(url: str, copy: Path, changes: Sequence[Update] = ()) -> None:
    """Make a database what a copy says; what was there is gone then, or, if this fails, still there.

    Args:
        url: of the kind that the copy is of.
        copy: as `copy_database` wrote it; changed by this.
        changes: made before anybody sees it.

    Raises:
        BackupError: the copy cannot be read, or the database is in use or cannot be written.
    """
    file = sqlite_file(url)
    if file is None:
        _put_back_postgres(url, copy, changes)
    else:
        _put_back_sqlite(file, copy, changes)


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


def _put_back_sqlite(target: Path, copy: Path, changes: Sequence[Update]) -> None:
    draft = target.with_name(f".{target.name}.restoring")
    try:
        engine = create_engine(f"sqlite:///{copy}", poolclass=NullPool)
        with engine.begin() as connection:
            for change in changes:
                connection.execute(change)
        target.parent.mkdir(parents=True, exist_ok=True)
        # from another file system it is copied, so the last step is a rename beside the target
        shutil.move(copy, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        if target.exists():
            _settle_sqlite(target)
        # whosever they are: the file may have been moved away from them
        for log in _logs(target):
            log.unlink(missing_ok=True)
        draft.replace(target)
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        raise BackupError(f"{target}: cannot be restored ({error}); stop what uses it, and check the disk") from error
    finally:
        draft.unlink(missing_ok=True)


def _logs(file: Path) -> list[Path]:
    return [file.with_name(file.name + suffix) for suffix in _LOGS]


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


def _put_back_postgres(url: str, copy: Path, changes: Sequence[Update]) -> None:
    with reading(url) as connection:
        names = inspect(connection).get_table_names()
        # such as MLflow's triggers call; not those of extensions
        routines = connection.execute(_ROUTINES).scalars().all()
    quoted = ", ".join(_SCRIPT.identifier_preparer.quote(name) for name in names)
    before = f"DROP TABLE {quoted} CASCADE;\n" if names else ""
    before += "".join(f"DROP ROUTINE {routine};\n" for routine in routines)
    after = [str(change.compile(dialect=_SCRIPT, compile_kwargs={"literal_binds": True})) for change in changes]
    with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
        scripts = [Path(folder, name) for name in ("before.sql", "copy.sql", "after.sql")]
        scripts[0].write_text(before, encoding="utf-8")
        _run_client("pg_restore", None, "--no-owner", "--no-privileges", f"--file={scripts[1]}", str(copy))
        # the script empties the search path
        named = ["SET search_path = public;", *(f"{one};" for one in after)]
        scripts[2].write_text("\n".join(named), encoding="utf-8")
        files = [f"--file={script}" for script in scripts]
        # all or nothing, the changes too
        _run_client("psql", url, "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", *files)


def _run_client(program: str, url: str | None, *arguments: str) -> None:
    path = shutil.which(program)
    if path is None:
        raise BackupError(
            f"{program} is not installed: install Postgres' client programs, not older than the server "
            "(apt install postgresql-client)"
        )
    asks = [] if url is None else ["--no-password"]
    # in the environment, for anybody may list the arguments of processes
    environment = {**os.environ, **({} if url is None else _connection(url))}
    done = subprocess.run(  # noqa: S603
        [path, *asks, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]
        raise BackupError(f"{without_password(url or program)}: {reason}")


def _connection(url: str) -> dict[str, str]:
    """Return a database's URL as the variables of Postgres' client library."""
    parsed = make_url(url)
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
