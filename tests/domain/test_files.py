"""Atomic writes: the old content or the new content, never a part, and no draft left behind."""

import os
import stat
from pathlib import Path

import pytest

from forecaster.domain.files import draft_of, write_atomically


@pytest.mark.parametrize("is_locked", [False, True])
def test_write_replaces_the_file_and_leaves_no_draft(tmp_path: Path, is_locked: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with write_atomically(path, is_locked=is_locked) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_error_keeps_the_old_file_and_removes_the_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="half"), write_atomically(path) as draft:
        draft.write_text("ne")
        raise ValueError("half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_block_without_a_draft_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with write_atomically(path):
        pass
    assert path.read_text() == "old"


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a.txt", list[tuple[bool, bool]]()

    def record(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", record)
    with write_atomically(path) as draft:
        draft.write_text("new")
    assert synced == [(False, False), (True, True)]


def test_mode_applies_before_the_first_byte_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with write_atomically(path, mode=0o600) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_locked_write_overwrites_the_draft_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    draft_of(path).write_text("a longer draft of a killed process")
    with write_atomically(path, is_locked=True) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
