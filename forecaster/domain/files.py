"""Atomic file writes: a reader, or a restart after a crash, sees the old content or the new content."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path, *, is_locked: bool = False, mode: int | None = None) -> Iterator[Path]:
    """Yield a draft beside `path`, which replaces `path` if the block succeeds and is removed if it fails.

    The draft and its folder are synced to disk. If the block does not create the draft, `path` is left unchanged.

    Args:
        path: the file to write; its folder must exist by the end of the block.
        is_locked: whether a lock excludes other writers. The draft then has a fixed name, so the next write overwrites
            a draft that a killed process has left.
        mode: the permissions of the file from its creation on; None for the default.

    Raises:
        OSError: the file cannot be written.
    """
    draft = draft_of(path) if is_locked else path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        if mode is not None:
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield draft
        if draft.exists():
            _sync(draft)
            draft.replace(path)
            _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """Return the draft of a file that is written under a lock."""
    return path.with_name(f".{path.name}.draft")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
