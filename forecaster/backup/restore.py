"""Restore an archive: verify all of it first, then replace all of its parts or none."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Update

from forecaster.backup.archive import Contents, unpack
from forecaster.backup.save import ARTIFACTS, BARS, DATABASE, PARTS, REGISTRY, Locations, OnFile
from forecaster.database.backup import (
    LOG_SUFFIXES,
    Kind,
    check_not_in_use,
    database_kind,
    is_occupied,
    replace_postgres,
    sqlite_path,
    update_sqlite_copy,
)
from forecaster.database.uris import without_password
from forecaster.domain.errors import BackupError, ConfigError
from forecaster.registry.artifact_locations import COLUMNS, relocation_updates

_MOUNT_POINT_ERROR = "is a mount point, which cannot be replaced; use a folder below it, or mount the folder above it"


def restore(
    locations: Locations,
    archive: Path,
    parts: Sequence[str] = (),
    on_file: OnFile = lambda name: None,
    *,
    force: bool = False,
) -> Contents:
    """Restore the parts of an archive to `locations`; return its contents.

    Before anything is changed, the whole archive is verified, every location is checked to be empty, new files and
    folders are written beside their locations, and each Postgres transaction is ready to commit. If a later step fails,
    all changes are undone; this is possible until the first commit.

    Args:
        locations: where to restore to.
        archive: an archive written by `back_up`.
        parts: the parts to restore; all parts of the archive when empty.
        on_file: called with each location, once all are restored.
        force: whether to replace existing data.

    Raises:
        ConfigError: a database is of another kind than the archive's.
        BackupError: the archive is damaged or lacks a part, or a location is not empty, in use, or cannot be written.
    """
    with _draft(locations) as folder:
        contents = unpack(archive, folder)
        missing = sorted(set(parts) - set(contents.parts))
        if missing:
            raise BackupError(f"{archive}: does not have {missing}; it has {list(contents.parts)}")
        wanted = [name for name in PARTS if name in (parts or contents.parts)]
        targets = [target for part in wanted for target in _TARGETS[part](locations, contents, folder)]
        _check_databases(targets)
        if not force:
            _refuse_occupied(targets)
        try:
            _replace_all(targets)
        except OSError as error:
            raise BackupError(f"the archive cannot be restored ({error}); free disk space, and run it again") from error
    for target in targets:
        on_file(target.shown)
    return contents


@dataclass(frozen=True)
class _Target:
    """A location to restore to, and its new content.

    Args:
        shown: the location's name in messages.
        new: the unpacked file or folder.
        path: the location's path, with links resolved; None for Postgres.
        url: the database's URL; empty for a folder.
        kind: the kind of the archive's database.
        changes: updates to make in the restored database.
    """

    shown: str
    new: Path
    path: Path | None
    url: str = ""
    kind: Kind | None = None
    changes: Sequence[Update] = ()

    def has_data(self) -> bool:
        """Return whether the location has any data."""
        return is_occupied(self.url) if self.url else self.path is not None and _has_content(self.path)


@dataclass(frozen=True)
class _Swap:
    """The replacement of a file or folder, and of a database's log files, by renames within its parent folder."""

    target: _Target
    path: Path

    def check(self) -> None:
        """Refuse a path that a rename cannot replace, and the remains of a killed restore."""
        if os.path.ismount(self.path):
            raise BackupError(f"{self.path}: {_MOUNT_POINT_ERROR}")
        old = self._sibling("replaced")
        if os.path.lexists(old):
            raise BackupError(
                f"{old}: a killed restore moved it away from {self.path}; move it back there, or remove it"
            )

    def prepare(self, undo: ExitStack) -> None:
        """Move the new content beside the path."""
        draft = self._sibling("restoring")
        # may be left by a killed restore
        _remove(draft)
        undo.callback(_remove, draft)
        if self.target.url:
            update_sqlite_copy(self.target.new, self.target.changes)
        else:
            self.target.new.mkdir(parents=True, exist_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.target.new, draft)
        if self.target.url:
            with draft.open("rb") as file:
                os.fsync(file.fileno())

    def swap(self, undo: ExitStack) -> None:
        """Replace the content of the path; `undo` reverses the renames."""
        if self.target.url:
            check_not_in_use(self.target.url)
        for current, aside in self._old():
            if current.exists():
                _rename(current, aside, undo)
        _rename(self._sibling("restoring"), self.path, undo)

    def finish(self) -> None:
        """Remove the old content."""
        for _, aside in self._old():
            _remove(aside)

    def _old(self) -> list[tuple[Path, Path]]:
        ends = ("", *LOG_SUFFIXES) if self.target.url else ("",)
        old = self._sibling("replaced")
        return [(self.path.with_name(self.path.name + end), old.with_name(old.name + end)) for end in ends]

    def _sibling(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")


def _replace_all(targets: Sequence[_Target]) -> None:
    """Replace the content of all locations, or of none."""
    swaps = [_Swap(target, target.path) for target in targets if target.path]
    for swap in swaps:
        swap.check()
    for target in targets:
        if target.url:
            check_not_in_use(target.url)
    with ExitStack() as end, ExitStack() as undo:
        for swap in swaps:
            swap.prepare(undo)
        transactions = [
            replace_postgres(target.url, target.new, target.changes) for target in targets if not target.path
        ]
        commits = [end.enter_context(transaction) for transaction in transactions]
        for swap in swaps:
            swap.swap(undo)
        for commit in commits[:1]:
            commit()
        # from here on nothing can be undone
        undo.pop_all()
        for swap in swaps:
            end.callback(swap.finish)
        for commit in commits[1:]:
            try:
                commit()
            except BackupError as error:
                raise BackupError(f"{error}; everything else is restored: run it again with --force") from error


def _registry(locations: Locations, contents: Contents, folder: Path) -> list[_Target]:
    part = contents.registry
    if part is None or not set(part.columns) <= set(COLUMNS):
        raise BackupError("the archive's registry comes from an unknown version of MLflow; use another backup")
    changes = relocation_updates(part.columns, Path(part.root), locations.root)
    return [
        _Target(str(locations.root), folder / ARTIFACTS, locations.root),
        _database(locations.tracking_uri, folder / REGISTRY, part.kind, changes),
    ]


def _bars(locations: Locations, contents: Contents, folder: Path) -> list[_Target]:
    return [_Target(str(locations.bars), folder / BARS, locations.bars.resolve())]


def _service(locations: Locations, contents: Contents, folder: Path) -> list[_Target]:
    part = contents.database
    if part:
        # the service's own file permissions
        (folder / DATABASE).chmod(0o600)
    return [_database(locations.database, folder / DATABASE, part.kind)] if part else []


def _database(url: str, copy: Path, kind: Kind, changes: Sequence[Update] = ()) -> _Target:
    return _Target(without_password(url), copy, sqlite_path(url), url, kind, changes)


_TARGETS = {"registry": _registry, "bars": _bars, "database": _service}


def _check_databases(targets: Sequence[_Target]) -> None:
    databases = [target for target in targets if target.url]
    for target in databases:
        if database_kind(target.url) != target.kind:
            raise ConfigError(
                f"{target.shown}: the archive has a {target.kind} database; give the URL of a {target.kind} database"
            )
    if len({target.url for target in databases}) < len(databases):
        raise ConfigError(f"{databases[0].shown}: both parts have this database; --parts registry restores all of it")


def _refuse_occupied(targets: Sequence[_Target]) -> None:
    occupied = [target.shown for target in targets if target.has_data()]
    if occupied:
        raise BackupError(f"{occupied}: not empty; give empty locations, or --force to replace what they contain")


def _rename(path: Path, target: Path, undo: ExitStack) -> None:
    try:
        path.rename(target)
    except OSError as error:
        # a bind mount in the same file system, which `ismount` does not recognize
        if error.errno == errno.EBUSY:
            raise BackupError(f"{path}: {_MOUNT_POINT_ERROR}") from error
        raise
    undo.callback(target.rename, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _has_content(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


@contextmanager
def _draft(locations: Locations) -> Iterator[Path]:
    """Yield a temporary folder in the nearest existing parent of the bar store."""
    parent = next(folder for folder in locations.bars.resolve().parents if folder.is_dir())
    try:
        draft = tempfile.mkdtemp(prefix=".restore-", dir=parent)
    except OSError as error:
        raise BackupError(f"{parent}: cannot be written ({error}); check its permissions") from error
    try:
        yield Path(draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
