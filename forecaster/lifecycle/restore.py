"""An archive put back: believed only when every hash is right, and then part by part, each of them whole."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from forecaster.database.backup import Kind, is_occupied, kind_of, put_back, refuse_in_use
from forecaster.database.uris import without_password
from forecaster.domain.errors import BackupError, ConfigError
from forecaster.lifecycle.archive import Contents, unpack
from forecaster.lifecycle.backup import ARTIFACTS, BARS, DATABASE, PARTS, REGISTRY, OnFile, Places
from forecaster.registry.places import COLUMNS, moves


def restore(
    places: Places,
    archive: Path,
    parts: Sequence[str] = (),
    on_file: OnFile = lambda name: None,
    *,
    force: bool = False,
) -> Contents:
    """Put an archive's parts where `places` says; return what it holds.

    Nothing is touched before the whole archive is verified and every place is found to be free.

    Args:
        places: where everything goes.
        archive: as `back_up` wrote it.
        parts: some of those that it has; all of them when empty.
        on_file: told of each place that has been filled.
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
        _check_kinds(places, contents, wanted)
        if not force:
            _refuse_taken(places, wanted)
        for part, url in (("registry", places.tracking_uri), ("database", places.database)):
            if part in wanted:
                refuse_in_use(url)
        for name in wanted:
            _PUT[name](places, contents, folder, on_file)
    return contents


def _check_kinds(places: Places, contents: Contents, wanted: Sequence[str]) -> None:
    kinds: dict[str, tuple[str, Kind]] = {}
    if contents.registry and "registry" in wanted:
        kinds["registry"] = places.tracking_uri, contents.registry.kind
    if contents.database and "database" in wanted:
        kinds["database"] = places.database, contents.database.kind
    for name, (url, kind) in kinds.items():
        if kind_of(url) != kind:
            raise ConfigError(f"{name}: the archive's is of {kind}, {without_password(url)} is not; give one that is")


def _refuse_taken(places: Places, wanted: Sequence[str]) -> None:
    taken = []
    if "registry" in wanted:
        taken += [places.tracking_uri] if is_occupied(places.tracking_uri) else []
        taken += [str(places.root)] if _holds(places.root) else []
    if "bars" in wanted and _holds(places.bars):
        taken.append(str(places.bars))
    if "database" in wanted and is_occupied(places.database):
        taken.append(places.database)
    if taken:
        shown = [without_password(place) for place in taken]
        raise BackupError(f"{shown} hold something; give places that are empty, or --force to replace what is there")


def _put_registry(places: Places, contents: Contents, folder: Path, on_file: OnFile) -> None:
    part = contents.registry
    if part is None or not set(part.columns) <= set(COLUMNS):
        raise BackupError("the archive's registry is of no MLflow that this program knows; take another backup")
    # first what the database speaks of
    _replace_folder(folder / ARTIFACTS, places.root)
    on_file(str(places.root))
    put_back(places.tracking_uri, folder / REGISTRY, moves(part.columns, Path(part.root), places.root))
    on_file(without_password(places.tracking_uri))


def _put_bars(places: Places, contents: Contents, folder: Path, on_file: OnFile) -> None:
    _replace_folder(folder / BARS, places.bars)
    on_file(str(places.bars))


def _put_database(places: Places, contents: Contents, folder: Path, on_file: OnFile) -> None:
    put_back(places.database, folder / DATABASE)
    on_file(without_password(places.database))


_PUT = {"registry": _put_registry, "bars": _put_bars, "database": _put_database}


def _replace_folder(new: Path, target: Path) -> None:
    """Make a folder what another is, by renames beside it."""
    draft, old = (target.with_name(f".{target.name}.{what}") for what in ("restoring", "replaced"))
    try:
        new.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        # what a killed restore left
        shutil.rmtree(draft, ignore_errors=True)
        shutil.move(new, draft)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        draft.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise BackupError(f"{target}: cannot be written ({error}); free space and run it again") from error
    shutil.rmtree(old, ignore_errors=True)


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
