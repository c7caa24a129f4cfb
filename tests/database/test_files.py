"""A SQLite file that is replaced, emptied or deleted while open is noticed before anything is lost to it."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from forecaster.database.backup import copy_database
from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import create_key, read_keys
from forecaster.database.schema import bring_up_to_date
from forecaster.database.tables import KEYS
from forecaster.database.uris import database_url, sqlite_file
from forecaster.domain.errors import ConfigError, DatabaseUnavailable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "service.db"


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{file}")
    bring_up_to_date(engine)
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


def remove(file: Path) -> None:
    file.unlink()


def remove_all(file: Path) -> None:
    for one in file.parent.glob("service.db*"):
        one.unlink()


def move_away(file: Path) -> None:
    file.rename(file.with_name("elsewhere.db"))


def move_away_and_touch(file: Path) -> None:
    move_away(file)
    file.touch()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def put_empty(file: Path) -> None:
    file.unlink()
    file.touch()


def put_rubbish(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"no database" * 1000)


def put_another(file: Path) -> None:
    other = open_engine(f"sqlite:///{file.with_name('other.db')}")
    bring_up_to_date(other)
    other.dispose()
    file.with_name("other.db").replace(file)


def put_fresh(file: Path) -> None:
    """Do what a pipeline does that finds no database."""
    remove_all(file)
    other = open_engine(f"sqlite:///{file}")
    bring_up_to_date(other)
    other.dispose()


LOSSES = [remove, remove_all, move_away, empty, put_empty, put_rubbish, put_another, put_fresh]


@pytest.mark.parametrize("lose", LOSSES)
def test_nothing_is_written_where_the_database_is_gone(
    engine: Engine, file: Path, lose: Callable[[Path], None]
) -> None:
    lose(file)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            write(engine)
    # nor is one made anew
    assert file.exists() == (lose not in (remove, remove_all, move_away))


@pytest.mark.parametrize("lose", LOSSES)
def test_a_copy_of_the_database_put_in_its_place_is_used(
    engine: Engine, file: Path, lose: Callable[[Path], None]
) -> None:
    copy = copy_of(file)
    lose(file)
    with pytest.raises(DatabaseUnavailable):
        write(engine)
    for one in file.parent.glob("service.db-*"):
        one.unlink()
    copy.replace(file)
    write(engine)
    assert len(read_keys(engine)) == 2
    with closing(sqlite3.connect(file)) as seen:
        assert seen.execute("SELECT COUNT(*) FROM keys").fetchone() == (2,)


def test_a_replaced_database_does_not_get_the_log_of_the_one_before(engine: Engine, file: Path) -> None:
    copy = copy_of(file)
    # which the copy lacks, and which is in the log alone
    write(engine)
    copy.replace(file)
    write(engine)
    assert len(read_keys(engine)) == 2
    assert list(file.parent.glob("service.db-wal.replaced-*"))
    with closing(sqlite3.connect(file)) as seen:
        assert seen.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert seen.execute("SELECT COUNT(*) FROM keys").fetchone() == (2,)


@pytest.mark.parametrize("lose", [move_away, move_away_and_touch])
def test_no_database_is_begun_beside_the_log_of_one_that_is_gone(
    engine: Engine, file: Path, lose: Callable[[Path], None]
) -> None:
    lose(file)
    # as a command does while the service is running
    other = open_engine(f"sqlite:///{file}")
    with pytest.raises(DatabaseUnavailable, match="holds the last commits"):
        bring_up_to_date(other)
    file.with_name("elsewhere.db").replace(file)
    write(engine)
    assert len(read_keys(engine)) == 2
    bring_up_to_date(other)
    assert len(read_keys(other)) == 2
    other.dispose()


def test_a_database_is_found_by_the_name_that_its_url_spells(tmp_path: Path) -> None:
    folder = tmp_path / "jürgen" / "50% + a?"
    url = f"sqlite:///{tmp_path}/jürgen/50%25 + a%3F/b%20c.db"
    engine = open_engine(url)
    bring_up_to_date(engine)
    write(engine)
    assert (folder / "b c.db").stat().st_size
    assert [one.name for one in tmp_path.iterdir()] == ["jürgen"]
    assert sqlite_file(url) == folder / "b c.db"
    copy_database(url, tmp_path / "copy.db")
    engine.dispose()


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&uri=true", "{}/a.db?timeout=30", "file:{}/a.db"])
def test_urls_that_name_no_file_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not taken"):
        open_engine(f"sqlite:///{name.format(tmp_path)}")


def test_a_database_replaced_during_a_transaction_is_not_written(engine: Engine, file: Path) -> None:
    copy = copy_of(file)
    with pytest.raises(DatabaseUnavailable, match="was replaced or deleted"), transaction(engine) as connection:
        connection.execute(select(func.count()).select_from(KEYS))
        copy.replace(file)


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_a_removed_log_costs_nothing_that_was_committed(engine: Engine, file: Path, end: str) -> None:
    other = open_engine(f"sqlite:///{file}")
    write(other)
    file.with_name(file.name + end).unlink()
    with pytest.raises(DatabaseUnavailable):
        write(engine)
    # by then the old log is closed, and the last connection to close it wrote it into the database
    write(other)
    write(engine)
    assert len(read_keys(engine)) == 4
    other.dispose()


def test_a_database_is_its_owners_alone_from_the_beginning(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    seen = []
    honest = os.open

    def watched(path: str, flags: int, mode: int = 0o777) -> int:
        opened = honest(path, flags, mode)
        seen.append(stat.S_IMODE(Path(path).stat().st_mode))
        return opened

    monkeypatch.setattr(os, "open", watched)
    try:
        engine = open_engine(f"sqlite:///{file}")
        bring_up_to_date(engine)
        write(engine)
    finally:
        os.umask(before)
    assert seen[0] == 0o600
    assert modes(file) == {"service.db": 0o600, "service.db-wal": 0o600, "service.db-shm": 0o600}
    engine.dispose()


def test_what_is_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    folder, device = tmp_path / "folder", tmp_path / "device"
    folder.mkdir(0o755)
    os.mkfifo(device, 0o666)
    device.chmod(0o666)
    for path, mode in ((folder, 0o755), (device, 0o666)):
        with pytest.raises(DatabaseUnavailable, match="is no file"):
            bring_up_to_date(open_engine(f"sqlite:///{path}"))
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("url", ["postgresql://me:secret@[::1", "postgresql://me:secret@host:port/x", "nothing"])
def test_urls_that_cannot_be_read_are_refused_without_their_password(url: str) -> None:
    for read in (open_engine, database_url):
        with pytest.raises(ConfigError, match=r"is none; write") as refused:
            read(url)
        assert "secret" not in str(refused.value)


def test_a_database_that_others_could_read_is_closed_to_them(file: Path) -> None:
    folder = stat.S_IMODE(file.parent.stat().st_mode)
    engine = open_engine(f"sqlite:///{file}")
    bring_up_to_date(engine)
    write(engine)
    kept = file.with_name("kept")
    kept.mkdir()
    # as after a kill, its logs beside it
    for one in file.parent.glob("service.db*"):
        if one.suffix != ".lock":
            shutil.copy(one, kept / one.name)
            (kept / one.name).chmod(0o666)
    again = open_engine(f"sqlite:///{kept}/service.db")
    bring_up_to_date(again)
    assert len(read_keys(again)) == 1
    assert set(modes(kept / "service.db").values()) == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == folder
    engine.dispose()
    again.dispose()


def modes(file: Path) -> dict[str, int]:
    found = [file.with_name(file.name + end) for end in ("", "-wal", "-shm")]
    return {one.name: stat.S_IMODE(one.stat().st_mode) for one in found}
