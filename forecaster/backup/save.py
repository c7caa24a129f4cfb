"""Save an installation into one archive, while it is running."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecaster.backup.archive import Archive, BarsPart, Contents, DatabasePart, RegistryPart, writing
from forecaster.data.store import BarStore
from forecaster.database.backup import copy_database, database_kind, open_connection
from forecaster.database.uris import sqlite_file
from forecaster.domain.errors import BackupError
from forecaster.registry.artifact_locations import existing_columns, locations_outside, missing_artifacts

PARTS = ("registry", "bars", "database")
REGISTRY, ARTIFACTS, BARS, DATABASE = "registry/mlflow.db", "registry/artifacts", "bars", "database/service.db"
_MAX_NAMES_SHOWN = 3
# called with the name of each file or location, once it is saved or restored
OnFile = Callable[[str], None]


@dataclass(frozen=True)
class Locations:
    """Where an installation keeps its data.

    Args:
        tracking_uri: the URI of MLflow's database.
        artifacts: the folder of MLflow's artifacts; when None, `artifacts` beside a SQLite file, or in `mlruns`.
        bars: the folder of the bar store.
        database: the URL of the service's database.
    """

    tracking_uri: str
    artifacts: Path | None
    bars: Path
    database: str

    @property
    def root(self) -> Path:
        """Return the absolute path of the folder of MLflow's artifacts."""
        file = sqlite_file(self.tracking_uri)
        parent = file.parent if file else Path("mlruns")
        return (self.artifacts or parent / "artifacts").resolve()


def back_up(
    locations: Locations, archive: Path, parts: Sequence[str] = PARTS, on_file: OnFile = lambda name: None
) -> Contents:
    """Write an archive of an installation, which may be running; return its contents.

    Each database is a snapshot of one instant, and the files of each symbol are consistent. All registered versions
    have their artifacts, because artifacts are written before a version is registered, and copied after the registry.

    Args:
        locations: where the installation keeps its data.
        archive: a new file, `.tar` or `.tar.zst`.
        parts: the parts to save, from `PARTS`.
        on_file: called with each file.

    Raises:
        ConfigError: a database is of a kind that cannot be copied.
        BackupError: a part is missing or cannot be read, or the archive cannot be written.
    """
    add: dict[str, Any] = {"registry": _add_registry, "bars": _add_bars, "database": _add_database}
    with writing(archive) as tar, tempfile.TemporaryDirectory(prefix=".backup-", dir=archive.parent) as folder:
        return tar.close({name: add[name](tar, locations, Path(folder), on_file) for name in PARTS if name in parts})


def _add_registry(tar: Archive, locations: Locations, folder: Path, on_file: OnFile) -> RegistryPart:
    kind = database_kind(locations.tracking_uri)
    copy = folder / "mlflow"
    copy_database(locations.tracking_uri, copy)
    tar.add(REGISTRY, copy)
    on_file(REGISTRY)
    with open_connection(f"sqlite:///{copy}" if kind == "sqlite" else locations.tracking_uri) as connection:
        columns = existing_columns(connection)
        if ("runs", "artifact_uri") not in columns:
            raise BackupError(
                f"{locations.tracking_uri.rpartition('@')[2]}: is not an MLflow store; correct the tracking URI"
            )
        elsewhere = locations_outside(connection, locations.root)
        missing = missing_artifacts(connection, locations.root)
    if missing:
        raise BackupError(
            f"{missing[:_MAX_NAMES_SHOWN]} ({len(missing)}): the registry needs them, but they do not exist; set "
            "--artifacts to MLflow's folder, or delete versions whose files are lost"
        )
    copy.unlink()
    for path in _files(locations.root):
        name = f"{ARTIFACTS}/{path.relative_to(locations.root).as_posix()}"
        tar.add(name, path)
        on_file(name)
    return RegistryPart(kind=kind, root=str(locations.root), columns=tuple(columns), elsewhere=tuple(elsewhere))


def _add_bars(tar: Archive, locations: Locations, folder: Path, on_file: OnFile) -> BarsPart:
    store = BarStore(locations.bars)
    symbols = store.symbols()
    if not symbols:
        raise BackupError(f"{locations.bars}: has no bars; set the folder, or leave bars out of the parts")
    for symbol in symbols:
        # so that the symbol's files are consistent
        with store.lock(symbol):
            for path in store.files(symbol):
                tar.add(f"{BARS}/{path.name}", path)
        on_file(symbol)
    return BarsPart(symbols=len(symbols))


def _add_database(tar: Archive, locations: Locations, folder: Path, on_file: OnFile) -> DatabasePart:
    copy = folder / "service"
    copy_database(locations.database, copy)
    tar.add(DATABASE, copy)
    on_file(DATABASE)
    copy.unlink()
    return DatabasePart(kind=database_kind(locations.database))


def _files(root: Path) -> Iterator[Path]:
    """Yield all files in a folder; raise BackupError for a link, which could lead anywhere."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise BackupError(f"{path}: is a link, which a backup does not follow; replace it with its target")
        if path.is_file():
            yield path
