"""Obstacles to a restore: log files of a killed writer, links to other disks, mount points, missing artifacts."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from forecaster.backup.restore import restore
from forecaster.backup.save import Locations, back_up
from forecaster.data.store import BarStore
from forecaster.domain.errors import BackupError
from forecaster.registry.store import Store
from tests.backup.installation import LOCATION_COLUMNS, files_of, write_bars


def logs_of(file: Path) -> list[Path]:
    return [path for path in sorted(file.parent.glob(f"{file.name}-*")) if path.suffix != ".lock"]


def leave_logs(file: Path, mode: str) -> None:
    """Replace a database by the log files that its writer leaves when it is killed during a transaction."""
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        # with little memory, pages are written to disk before the end of the transaction
        for setting in (f"journal_mode={mode}", "wal_autocheckpoint=0", "cache_size=1"):
            writer.execute(f"PRAGMA {setting}").fetchall()
        for answer in ("late", "later"):
            writer.execute("BEGIN")
            writer.execute("UPDATE requests SET head = ?", (answer,))
            writer.execute("UPDATE forecasts SET answer = ?", (answer * 1000,))
            if answer == "late":
                writer.execute("COMMIT")
        logs = {path: path.read_bytes() for path in logs_of(file)}
        assert all(logs.values())
    file.unlink()
    for log, content in logs.items():
        log.write_bytes(content)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_log_files_of_a_killed_writer_do_not_change_the_restored_database(
    site: Locations, tmp_path: Path, mode: str
) -> None:
    archive, file = tmp_path / "b.tar", Path(site.database.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        before = list(connection.iterdump())
    back_up(site, archive, ("database",))
    leave_logs(file, mode)
    left = [path.name for path in logs_of(file)]
    assert left == (["service.db-shm", "service.db-wal"] if mode == "wal" else ["service.db-journal"])
    with pytest.raises(BackupError, match=r"service\.db.*: not empty"):
        restore(site, archive)
    assert [path.name for path in logs_of(file)] == left
    restore(site, archive, force=True)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert list(connection.iterdump()) == before


def test_restore_replaces_the_targets_of_links(site: Locations, tmp_path: Path) -> None:
    archive, disk = tmp_path / "b.tar", tmp_path / "another disk"
    back_up(site, archive)
    before = files_of(site.bars.parent)
    links = [site.bars, site.root, site.bars.parent / "service.db"]
    disk.mkdir()
    for link in links:
        shutil.move(link, disk / link.name)
        link.symlink_to(disk / link.name)
    for _ in range(2):
        write_bars(site.bars, "NEW", 1)
        restore(site, archive, force=True)
        assert all(link.is_symlink() for link in links)
        assert files_of(disk) == {name: content for name, content in before.items() if name != "mlflow.db"}
        assert {path.name for path in disk.iterdir() if path.suffix != ".lock"} == {link.name for link in links}
    write_bars(site.bars, "NEW", 1)
    # data that a killed restore moved away are kept
    (disk / "bars").rename(disk / ".bars.replaced")
    with pytest.raises(
        BackupError, match=r"\.bars\.replaced: a killed restore moved it away from .*bars; move it back"
    ):
        restore(site, archive, force=True)
    assert BarStore(disk / ".bars.replaced").symbols() == ["ABC", "NEW", "brk.b"]


def test_restore_refuses_a_mount_point(site: Locations, tmp_path: Path) -> None:
    namespace = ["unshare", "--mount", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    Store(site.tracking_uri).promote("sine", 2)
    before = files_of(site.bars.parent)
    command = [sys.executable, "-m", "pipelines.restore", str(archive), "--force", "--tracking-uri", site.tracking_uri]
    command += ["--bars", str(site.bars), "--database", site.database]
    # a bind mount is on the same device
    for mount in ("-t tmpfs none", "--bind ."):
        script = f'mount {mount} "{site.bars}" && exec "$@"'
        done = subprocess.run(
            [*namespace, "sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "bars: is a mount point, which cannot be replaced; use a folder below it" in done.stderr
        assert files_of(site.bars.parent) == before


def test_backup_refuses_a_registry_with_missing_artifacts(site: Locations, tmp_path: Path) -> None:
    with closing(sqlite3.connect(site.bars.parent / "mlflow.db")) as connection, connection:
        # locations as in a server's database, which do not name the folder
        for table, column in LOCATION_COLUMNS:
            old = f"{site.root.as_uri()}/"
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, 'mlflow-artifacts:/')", (old,))
        (folders,) = zip(*connection.execute("SELECT source FROM model_versions ORDER BY version"), strict=True)
    assert all(folder.startswith("mlflow-artifacts:/") for folder in folders)
    contents = back_up(site, tmp_path / "whole.tar", ("registry",))
    lost = site.root / folders[0].removeprefix("mlflow-artifacts:/")
    assert any(str(lost.relative_to(site.root)) in name for name in contents.files)
    mistyped, other = (replace(site, artifacts=tmp_path / name) for name in ("artefacts", "other"))
    other.root.mkdir()
    lost.rename(tmp_path / "lost")
    for locations, message in (
        (mistyped, r"artefacts'\] \(1\)"),
        (other, r"of sine 1.*\(2\)"),
        (site, r"of sine 1'\] \(1\)"),
    ):
        with pytest.raises(
            BackupError, match=f"{message}: the registry needs them, but they do not exist; set --artifacts"
        ):
            back_up(locations, tmp_path / "b.tar", ("registry",))
    assert not (tmp_path / "b.tar").exists()
    # a deleted version needs no artifacts
    with closing(sqlite3.connect(site.bars.parent / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE version = 1")
    back_up(site, tmp_path / "b.tar", ("registry",))
