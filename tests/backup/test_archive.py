"""A damaged archive is refused, and nothing is changed."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from forecaster.backup.restore import restore
from forecaster.backup.save import Locations, back_up
from forecaster.domain.errors import BackupError
from tests.backup.installation import elsewhere


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"many_to_one")
    content[at] ^= 1
    path.write_bytes(content)


def _add_link(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("bars/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def _add_file_above(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        above = tarfile.TarInfo("../above")
        above.size = 1
        tar.addfile(above, io.BytesIO(b"x"))


def _add_file(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        more = tarfile.TarInfo("bars/MORE.parquet")
        more.size = 1
        tar.addfile(more, io.BytesIO(b"x"))


def _drop_end(path: Path) -> None:
    with tarfile.open(path) as old, tarfile.open(path.with_name("short"), "w") as new:
        for member in old.getmembers()[:-1]:
            new.addfile(member, old.extractfile(member))
    path.with_name("short").replace(path)


def _drop_file(path: Path) -> None:
    with tarfile.open(path) as old, tarfile.open(path.with_name("short"), "w") as new:
        for member in old.getmembers():
            if not member.name.endswith("model.onnx"):
                new.addfile(member, old.extractfile(member))
    path.with_name("short").replace(path)


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, "truncated, or not a backup"),
    "one bit": (_flip_bit, ": changed since it was written"),
    "a link": (_add_link, "'bars/link' is not a regular file"),
    "a file above": (_add_file_above, r"'\.\./above' is not a regular file"),
    "an additional file": (_add_file, r"\['bars/MORE.parquet'\] \(1\): not listed"),
    "no end": (_drop_end, "manifest.json at its end is missing"),
    "a missing file": (_drop_file, ": missing"),
    "empty": (lambda path: os.truncate(path, 0), "truncated, or not a backup"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_archive_is_refused_and_changes_nothing(
    site: Locations, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    damage(archive)
    new = elsewhere(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackupError, match=message):
        restore(new, archive)
    content = {path: path.read_bytes() for path in site.bars.parent.rglob("*") if path.is_file()}
    with pytest.raises(BackupError, match=message):
        restore(site, archive, force=True)
    assert content == {path: path.read_bytes() for path in site.bars.parent.rglob("*") if path.is_file()}
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_compressed_archive_is_refused(site: Locations, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    back_up(site, archive, ("bars",))
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-100], b"no zstd" * 100, whole[:50] + b"\0" * 20 + whole[70:]):
        archive.write_bytes(damaged)
        with pytest.raises(BackupError):
            restore(elsewhere(tmp_path), archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.zst", "the old place"]
