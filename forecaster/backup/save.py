"""What an installation keeps, saved into one archive while it works, and put back elsewhere or in the same place."""

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
from forecaster.registry.places import known_columns, lacking, places_elsewhere

PARTS = ("registry", "bars", "database")
REGISTRY, ARTIFACTS, BARS, DATABASE = "registry/mlflow.db", "registry/artifacts", "bars", "database/service.db"
_NAMED = 3
# told of each file that is added or put back
OnFile = Callable[[str], None]


@dataclass(frozen=True)
class Places:
    """Where an installation keeps what.

    Args:
        tracking_uri: MLflow's database.
        artifacts: the folder of its artifacts; beside a SQLite file when None, else in `mlruns`.
        bars: the bar store's folder.
        database: the service's.
    """

    tracking_uri: str
    artifacts: Path | None
    bars: Path
    database: str

    @property
    def root(self) -> Path:
        """Return the folder of MLflow's artifacts, absolute."""
        file = sqlite_file(self.tracking_uri)
        beside = file.parent if file else Path("mlruns")
        return (self.artifacts or beside / "artifacts").resolve()


def back_up(
    places: Places, archive: Path, parts: Sequence[str] = PARTS, on_file: OnFile = lambda name: None
) -> Contents:
    """Write an archive of an installation that may be at work; return what it holds.

    Each database is of one instant, each symbol of the bar store whole. Versions that the registry names have their
    artifacts, because those are written before and copied after.

    Args:
        places: where everything is.
        archive: a new file, `.tar` or `.tar.zst`.
        parts: some of `PARTS`.
        on_file: told of each file.

    Raises:
        ConfigError: a URL is of no database that can be copied.
        BackupError: a part is not there, or cannot be read, or the archive cannot be written.
    """
    add: dict[str, Any] = {"registry": _add_registry, "bars": _add_bars, "database": _add_database}
    with writing(archive) as tar, tempfile.TemporaryDirectory(prefix=".backup-", dir=archive.parent) as folder:
        return tar.close({name: add[name](tar, places, Path(folder), on_file) for name in PARTS if name in parts})


def _add_registry(tar: Archive, places: Places, folder: Path, on_file: OnFile) -> RegistryPart:
    kind = database_kind(places.tracking_uri)
    copy = folder / "mlflow"
    copy_database(places.tracking_uri, copy)
    tar.add(REGISTRY, copy)
    on_file(REGISTRY)
    with open_connection(f"sqlite:///{copy}" if kind == "sqlite" else places.tracking_uri) as connection:
        columns = known_columns(connection)
        if ("runs", "artifact_uri") not in columns:
            raise BackupError(f"{places.tracking_uri.rpartition('@')[2]}: is no MLflow store; correct the tracking URI")
        elsewhere = places_elsewhere(connection, places.root)
        lacks = lacking(connection, places.root)
    if lacks:
        raise BackupError(
            f"{lacks[:_NAMED]} ({len(lacks)}): the registry names them and they are not there; set --artifacts to "
            "MLflow's folder, or delete versions whose files are lost"
        )
    copy.unlink()
    for path in _files(places.root):
        name = f"{ARTIFACTS}/{path.relative_to(places.root).as_posix()}"
        tar.add(name, path)
        on_file(name)
    return RegistryPart(kind=kind, root=str(places.root), columns=tuple(columns), elsewhere=tuple(elsewhere))


def _add_bars(tar: Archive, places: Places, folder: Path, on_file: OnFile) -> BarsPart:
    store = BarStore(places.bars)
    symbols = store.symbols()
    if not symbols:
        raise BackupError(f"{places.bars}: nothing is stored there; set the folder, or leave bars out of the parts")
    for symbol in symbols:
        # its files belong together
        with store.lock(symbol):
            for path in store.files(symbol):
                tar.add(f"{BARS}/{path.name}", path)
        on_file(symbol)
    return BarsPart(symbols=len(symbols))


def _add_database(tar: Archive, places: Places, folder: Path, on_file: OnFile) -> DatabasePart:
    copy = folder / "service"
    copy_database(places.database, copy)
    tar.add(DATABASE, copy)
    on_file(DATABASE)
    copy.unlink()
    return DatabasePart(kind=database_kind(places.database))


def _files(root: Path) -> Iterator[Path]:
    """Yield a folder's files; a link could lead anywhere."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise BackupError(f"{path}: is a link, which a backup does not follow; replace it by what it leads to")
        if path.is_file():
            yield path
