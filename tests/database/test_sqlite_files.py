"""A SQLite file that is replaced, emptied or deleted while open is noticed before a commit is lost."""

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from forecaster.database import sqlite_files
from forecaster.database.backup import copy_database
from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import create_key, read_keys
from forecaster.database.schema import upgrade_schema
from forecaster.database.sqlite_files import create_sqlite_file
from forecaster.database.tables import KEYS
from forecaster.database.uris import database_url, sqlite_file
from forecaster.domain.errors import ConfigError, DatabaseUnavailable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "service.db"


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{file}")
    upgrade_schema(engine)
    write(engine)
    yield engine
    engine.dispose()


def write(engine: Engine) -> None:
    create_key(engine, "shop", ["forecast"])


def copy_of(file: Path) -> Path:
    copy = file.with_name("copy.db")
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as new:
        live.backup(new)
    return copy


def delete(file: Path) -> None:
    file.unlink()


def delete_with_logs(file: Path) -> None:
    for path in file.parent.glob("service.db*"):
        path.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name("elsewhere.db"))


def rename_and_create_empty(file: Path) -> None:
    rename(file)
    file.touch()


def truncate(file: Path) -> None:
    file.write_bytes(b"")


def replace_by_empty_file(file: Path) -> None:
    file.unlink()
    file.touch()


def replace_by_garbage(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"no database" * 1000)


def replace_by_another_database(file: Path) -> None:
    other = open_engine(f"sqlite:///{file.with_name('other.db')}")
    upgrade_schema(other)
    other.dispose()
    file.with_name("other.db").replace(file)


def replace_by_new_database(file: Path) -> None:
    """Delete the database and create a new one, as a pipeline does that finds none."""
    delete_with_logs(file)
    other = open_engine(f"sqlite:///{file}")
    upgrade_schema(other)
    other.dispose()


LOSSES = [
    delete,
    delete_with_logs,
    rename,
    truncate,
    replace_by_empty_file,
    replace_by_garbage,
    replace_by_another_database,
    replace_by_new_database,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_writes_fail_after_the_database_is_lost(engine: Engine, file: Path, lose: Callable[[Path], None]) -> None:
    lose(file)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            write(engine)
    # and no new database is created
    assert file.exists() == (lose not in (delete, delete_with_logs, rename))


@pytest.mark.parametrize("lose", LOSSES)
def test_a_copy_put_at_the_path_of_a_lost_database_is_used(
    engine: Engine, file: Path, lose: Callable[[Path], None]
) -> None:
    copy = copy_of(file)
    lose(file)
    with pytest.raises(DatabaseUnavailable):
        write(engine)
    for path in file.parent.glob("service.db-*"):
        path.unlink()
    copy.replace(file)
    write(engine)
    assert len(read_keys(engine)) == 2
    with closing(sqlite3.connect(file)) as reader:
        assert reader.execute("SELECT COUNT(*) FROM keys").fetchone() == (2,)


def test_the_log_of_a_replaced_database_is_moved_aside(engine: Engine, file: Path) -> None:
    copy = copy_of(file)
    # this commit is only in the log, and not in the copy
    write(engine)
    copy.replace(file)
    write(engine)
    assert len(read_keys(engine)) == 2
    assert list(file.parent.glob("service.db-wal.replaced-*"))
    with closing(sqlite3.connect(file)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("SELECT COUNT(*) FROM keys").fetchone() == (2,)


@pytest.mark.parametrize("lose", [rename, rename_and_create_empty])
def test_no_database_is_created_beside_the_log_of_a_lost_one(
    engine: Engine, file: Path, lose: Callable[[Path], None]
) -> None:
    lose(file)
    # a command, while the service is running
    other = open_engine(f"sqlite:///{file}")
    with pytest.raises(DatabaseUnavailable, match="holds the last commits"):
        upgrade_schema(other)
    file.with_name("elsewhere.db").replace(file)
    write(engine)
    assert len(read_keys(engine)) == 2
    upgrade_schema(other)
    assert len(read_keys(other)) == 2
    other.dispose()


def test_a_url_with_escapes_names_the_decoded_path(tmp_path: Path) -> None:
    folder = tmp_path / "jürgen" / "50% + a?"
    url = f"sqlite:///{tmp_path}/jürgen/50%25 + a%3F/b%20c.db"
    engine = open_engine(url)
    upgrade_schema(engine)
    write(engine)
    assert (folder / "b c.db").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["jürgen"]
    assert sqlite_file(url) == folder / "b c.db"
    copy_database(url, tmp_path / "copy.db")
    engine.dispose()


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&uri=true", "{}/a.db?timeout=30", "file:{}/a.db"])
def test_urls_that_name_no_plain_file_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not supported"):
        open_engine(f"sqlite:///{name.format(tmp_path)}")


def test_a_transaction_fails_if_the_database_is_replaced_during_it(engine: Engine, file: Path) -> None:
    copy = copy_of(file)
    with pytest.raises(DatabaseUnavailable, match="was replaced or deleted"), transaction(engine) as connection:
        connection.execute(select(func.count()).select_from(KEYS))
        copy.replace(file)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_no_commit_is_lost_if_a_log_is_deleted(engine: Engine, file: Path, suffix: str) -> None:
    other = open_engine(f"sqlite:///{file}")
    write(other)
    file.with_name(file.name + suffix).unlink()
    with pytest.raises(DatabaseUnavailable):
        write(engine)
    # the last connection to close the old log has written it into the database
    write(other)
    write(engine)
    assert len(read_keys(engine)) == 4
    other.dispose()


def test_only_the_owner_can_read_a_new_database(file: Path) -> None:
    umask = os.umask(0)
    try:
        create_sqlite_file(file)
        assert modes(file)["service.db"] == 0o600
        engine = open_engine(f"sqlite:///{file}")
        upgrade_schema(engine)
        write(engine)
    finally:
        os.umask(umask)
    assert modes(file) == {"service.db": 0o600, "service.db-wal": 0o600, "service.db-shm": 0o600}
    engine.dispose()


def test_a_folder_or_device_is_refused_and_keeps_its_permissions(tmp_path: Path) -> None:
    folder, device = tmp_path / "folder", tmp_path / "device"
    folder.mkdir(0o755)
    os.mkfifo(device, 0o666)
    device.chmod(0o666)
    for path, mode in ((folder, 0o755), (device, 0o666)):
        with pytest.raises(DatabaseUnavailable, match="is not a file"):
            upgrade_schema(open_engine(f"sqlite:///{path}"))
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("url", ["postgresql://me:secret@[::1", "postgresql://me:secret@host:port/x", "nothing"])
def test_invalid_urls_are_refused_without_showing_the_password(url: str) -> None:
    for read in (open_engine, database_url):
        with pytest.raises(ConfigError, match=r"is not a URL; write") as raised:
            read(url)
        assert "secret" not in str(raised.value)


def test_the_permissions_of_an_existing_database_are_restricted_to_its_owner(file: Path) -> None:
    folder = stat.S_IMODE(file.parent.stat().st_mode)
    engine = open_engine(f"sqlite:///{file}")
    upgrade_schema(engine)
    write(engine)
    copies = file.with_name("copies")
    copies.mkdir()
    # with its logs, as after a kill
    for path in file.parent.glob("service.db*"):
        if path.suffix != ".lock":
            shutil.copy(path, copies / path.name)
            (copies / path.name).chmod(0o666)
    reopened = open_engine(f"sqlite:///{copies}/service.db")
    upgrade_schema(reopened)
    assert len(read_keys(reopened)) == 1
    assert set(modes(copies / "service.db").values()) == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == folder
    engine.dispose()
    reopened.dispose()


def modes(file: Path) -> dict[str, int]:
    paths = [file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm")]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()}


@pytest.mark.usefixtures("engine")
def test_threads_open_and_close_connections_at_the_same_time(file: Path) -> None:
    def open_and_close(_: int) -> None:
        own = open_engine(f"sqlite:///{file}")
        with own.connect():
            pass
        own.dispose()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        # connections that stay open make each look at them longer
        with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
            for _ in range(40):
                stack.enter_context(open_engine(f"sqlite:///{file}").connect())
            list(threads.map(open_and_close, range(200)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("is_empty", [True, False])
def test_log_stays_in_place_if_the_file_comes_back_while_it_is_opened(
    engine: Engine, file: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool
) -> None:
    """The log holds the last commits. Moved aside for a file that was gone by then, it took them with it."""
    away, other = file.with_name("away.db"), file.with_name("other.db")
    os.link(file, away)
    if is_empty:
        other.touch()
    else:
        copy_of(file).replace(other)
    other.replace(file)
    find_logs = sqlite_files._log_paths

    def bring_back(path: Path) -> tuple[Path, ...]:
        if away.exists():
            away.replace(file)
        return find_logs(path)

    # called after the first look at the file
    monkeypatch.setattr(sqlite_files, "_log_paths", bring_back)
    with pytest.raises(DatabaseUnavailable, match="replaced"):
        write(engine)
    write(engine)
    assert not list(file.parent.glob("*.replaced-*"))
    assert len(read_keys(engine)) == 2
