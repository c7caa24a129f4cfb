"""An archive put back: believed only when every hash is right, and then all that is wanted of it, or nothing."""

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
from forecaster.backup.save import ARTIFACTS, BARS, DATABASE, PARTS, REGISTRY, OnFile, Places
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
from forecaster.registry.places import COLUMNS, moves

_MOUNTED = "is a mount point, which cannot be replaced; give a folder below it, or mount the folder above it"


def restore(
    places: Places,
    archive: Path,
    parts: Sequence[str] = (),
    on_file: OnFile = lambda name: None,
    *,
    force: bool = False,
) -> Contents:
    """Put an archive's parts where `places` says; return what it holds.

    Nothing is touched before the whole archive is verified, every place is found to be free, and all that can fail has
    been done beside it: files and folders lie ready to be renamed, each Postgres has done all but commit. What fails
    then is undone, up to the first commit.

    Args:
        places: where everything goes.
        archive: as `back_up` wrote it.
        parts: some of those that it has; all of them when empty.
        on_file: told of each place, once all are filled.
        force: whether what is there already is replaced.

    Raises:
        ConfigError: a database is of another kind than the archive's.
        BackupError: the archive cannot be trusted or lacks a part, a place is taken or in use, or cannot be written.
    """
    with _draft(places) as folder:
        contents = unpack(archive, folder)
        missing = sorted(set(parts) - set(contents.parts))
        if missing:
            raise BackupError(f"{archive}: does not have {missing}; it has {list(contents.parts)}")
        wanted = [name for name in PARTS if name in (parts or contents.parts)]
        goals = [goal for part in wanted for goal in _GOALS[part](places, contents, folder)]
        _check_databases(goals)
        if not force:
            _refuse_taken(goals)
        try:
            _put(goals)
        except OSError as error:
            raise BackupError(f"cannot be put back ({error}); free space, and run it again") from error
    for goal in goals:
        on_file(goal.shown)
    return contents


@dataclass(frozen=True)
class _Goal:
    """One place, and what comes there.

    Args:
        shown: how it is called.
        new: the file or folder, unpacked.
        path: where it goes, whatever links lead there; None for Postgres.
        url: of a database.
        kind: of the archive's database.
        changes: to the database.
    """

    shown: str
    new: Path
    path: Path | None
    url: str = ""
    kind: Kind | None = None
    changes: Sequence[Update] = ()

    def is_taken(self) -> bool:
        """Say whether something is there."""
        return is_occupied(self.url) if self.url else self.path is not None and _holds(self.path)


@dataclass(frozen=True)
class _Swap:
    """A file or folder that takes the place of another, with what belongs to that, by renames beside it."""

    goal: _Goal
    target: Path

    def check(self) -> None:
        """Refuse what no rename can replace, and what only the user can decide."""
        if os.path.ismount(self.target):
            raise BackupError(f"{self.target}: {_MOUNTED}")
        old = self._beside("replaced")
        if os.path.lexists(old):
            raise BackupError(
                f"{old}: is what a killed restore took from {self.target}; move it back there, or remove it"
            )

    def prepare(self, undo: ExitStack) -> None:
        """Bring what is new beside the target."""
        draft = self._beside("restoring")
        # what a killed restore left
        _remove(draft)
        undo.callback(_remove, draft)
        if self.goal.url:
            update_sqlite_copy(self.goal.new, self.goal.changes)
        else:
            self.goal.new.mkdir(parents=True, exist_ok=True)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.goal.new, draft)
        if self.goal.url:
            with draft.open("rb") as file:
                os.fsync(file.fileno())

    def swap(self, undo: ExitStack) -> None:
        """Replace the target; `undo` renames all back."""
        if self.goal.url:
            check_not_in_use(self.goal.url)
        for now, aside in self._old():
            if now.exists():
                _rename(now, aside, undo)
        _rename(self._beside("restoring"), self.target, undo)

    def finish(self) -> None:
        """Drop what was there."""
        for _, aside in self._old():
            _remove(aside)

    def _old(self) -> list[tuple[Path, Path]]:
        ends = ("", *LOG_SUFFIXES) if self.goal.url else ("",)
        old = self._beside("replaced")
        return [(self.target.with_name(self.target.name + end), old.with_name(old.name + end)) for end in ends]

    def _beside(self, what: str) -> Path:
        return self.target.with_name(f".{self.target.name}.{what}")


def _put(goals: Sequence[_Goal]) -> None:
    """Fill all places, or none of them."""
    swaps = [_Swap(goal, goal.path) for goal in goals if goal.path]
    for swap in swaps:
        swap.check()
    for goal in goals:
        if goal.url:
            check_not_in_use(goal.url)
    with ExitStack() as end, ExitStack() as undo:
        for swap in swaps:
            swap.prepare(undo)
        replacing = [replace_postgres(goal.url, goal.new, goal.changes) for goal in goals if not goal.path]
        commits = [end.enter_context(one) for one in replacing]
        for swap in swaps:
            swap.swap(undo)
        for commit in commits[:1]:
            commit()
        # no way back from here
        undo.pop_all()
        for swap in swaps:
            end.callback(swap.finish)
        for commit in commits[1:]:
            try:
                commit()
            except BackupError as error:
                raise BackupError(f"{error}; all else is put back: run it again with --force") from error


def _registry(places: Places, contents: Contents, folder: Path) -> list[_Goal]:
    part = contents.registry
    if part is None or not set(part.columns) <= set(COLUMNS):
        raise BackupError("the archive's registry is of no MLflow that this program knows; take another backup")
    changes = moves(part.columns, Path(part.root), places.root)
    return [
        _Goal(str(places.root), folder / ARTIFACTS, places.root),
        _database(places.tracking_uri, folder / REGISTRY, part.kind, changes),
    ]


def _bars(places: Places, contents: Contents, folder: Path) -> list[_Goal]:
    return [_Goal(str(places.bars), folder / BARS, places.bars.resolve())]


def _service(places: Places, contents: Contents, folder: Path) -> list[_Goal]:
    part = contents.database
    if part:
        # as the service keeps it
        (folder / DATABASE).chmod(0o600)
    return [_database(places.database, folder / DATABASE, part.kind)] if part else []


def _database(url: str, copy: Path, kind: Kind, changes: Sequence[Update] = ()) -> _Goal:
    return _Goal(without_password(url), copy, sqlite_path(url), url, kind, changes)


_GOALS = {"registry": _registry, "bars": _bars, "database": _service}


def _check_databases(goals: Sequence[_Goal]) -> None:
    databases = [goal for goal in goals if goal.url]
    for goal in databases:
        if database_kind(goal.url) != goal.kind:
            raise ConfigError(f"{goal.shown}: the archive's is of {goal.kind}, this is not; give one that is")
    if len({goal.url for goal in databases}) < len(databases):
        raise ConfigError(f"{databases[0].shown}: is one database for both; --parts registry has all of it")


def _refuse_taken(goals: Sequence[_Goal]) -> None:
    taken = [goal.shown for goal in goals if goal.is_taken()]
    if taken:
        raise BackupError(f"{taken} hold something; give places that are empty, or --force to replace what is there")


def _rename(path: Path, target: Path, undo: ExitStack) -> None:
    try:
        path.rename(target)
    except OSError as error:
        # of a mount in the same file system, which cannot be told by its device
        if error.errno == errno.EBUSY:
            raise BackupError(f"{path}: {_MOUNTED}") from error
        raise
    undo.callback(target.rename, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _holds(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


@contextmanager
def _draft(places: Places) -> Iterator[Path]:
    """Yield a folder that will be gone, in the nearest one above the places that is there: no other is made for it."""
    above = next(folder for folder in places.bars.resolve().parents if folder.is_dir())
    try:
        draft = tempfile.mkdtemp(prefix=".restore-", dir=above)
    except OSError as error:
        raise BackupError(f"{above}: cannot be written ({error}); check its permissions") from error
    try:
        yield Path(draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
