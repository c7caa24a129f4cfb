"""A spoilt archive is refused, and nothing is touched."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from forecaster.backup.restore import restore
from forecaster.backup.save import Places, back_up
from forecaster.domain.errors import BackupError
from tests.backup.installation import elsewhere


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"many_to_one")
    content[at] ^= 1
    path.write_bytes(content)


def _add_link(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("bars/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def _add_above(path: Path) -> None:
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


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (_cut, "cut short, or no backup"),
    "one bit": (_flip, "are changed since it was written"),
    "a link": (_add_link, "'bars/link' is no plain file"),
    "above": (_add_above, r"'\.\./above' is no plain file"),
    "one more": (_add_file, r"\['bars/MORE.parquet'\] \(1\) are not of it"),
    "no end": (_drop_end, "its end with manifest.json is missing"),
    "one less": (_drop_file, "are missing"),
    "nothing": (lambda path: os.truncate(path, 0), "cut short, or no backup"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_archive_is_refused_and_nothing_is_touched(
    site: Places, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    archive = tmp_path / "b.tar"
    back_up(site, archive)
    spoil(archive)
    new = elsewhere(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackupError, match=said):
        restore(new, archive)
    content = {path: path.read_bytes() for path in site.bars.parent.rglob("*") if path.is_file()}
    with pytest.raises(BackupError, match=said):
        restore(site, archive, force=True)
    assert content == {path: path.read_bytes() for path in site.bars.parent.rglob("*") if path.is_file()}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_compressed_archive_that_is_cut_short_or_spoilt_is_refused(site: Places, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    back_up(site, archive, ("bars",))
    whole = archive.read_bytes()
    for spoilt in (whole[: len(whole) // 2], whole[:-100], b"no zstd" * 100, whole[:50] + b"\0" * 20 + whole[70:]):
        archive.write_bytes(spoilt)
        with pytest.raises(BackupError):
            restore(elsewhere(tmp_path), archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.zst", "the old place"]
