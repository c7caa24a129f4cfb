"""The artifact locations in MLflow's database, which are absolute paths: check them, and update them after a move."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, String, Update, column, func, inspect, literal, or_, select, table, text, update

# every column of MLflow's tables that holds an artifact location, as (table, column)
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
# a location behind an MLflow server, which does not name the server's folder
_PROXIED = "mlflow-artifacts:"
# the stage of a deleted version, whose row MLflow keeps
_DELETED = "Deleted_Internal"


def existing_columns(connection: Connection) -> list[tuple[str, str]]:
    """Return the columns of `COLUMNS` that exist in a database; older MLflows have fewer."""
    inspector = inspect(connection)
    tables = {name for name, _ in COLUMNS} & set(inspector.get_table_names())
    existing = {(name, column["name"]) for name in tables for column in inspector.get_columns(name)}
    return [location for location in COLUMNS if location in existing]


def locations_outside(connection: Connection, root: Path) -> list[str]:
    """Return the artifact locations of experiments outside the folder `root`, sorted."""
    # the form is LOCATION_OF_THE_EXPERIMENT/RUN/artifacts
    return sorted({uri.rsplit("/", 2)[0] for uri in _of_runs(connection) if _inside(uri, root) is None})


def missing_artifacts(connection: Connection, root: Path) -> list[str]:
    """Return the registered versions whose artifact folder below `root` is missing; `root` itself if it is missing.

    A run without artifacts has no folder, so runs are not checked.
    """
    if not root.is_dir() and any(_inside(uri, root) for uri in _of_runs(connection)):
        return [str(root)]
    missing = []
    # older MLflows have fewer columns
    for row in connection.execute(select(text("*")).select_from(table("model_versions"))).mappings():
        # if the source is one of MLflow's logged models, storage_location is its folder
        folder = _inside(row.get("storage_location") or row["source"] or "", root)
        is_deleted = row["current_stage"] == _DELETED
        if folder and not folder.is_dir() and not is_deleted:
            missing.append(f"{folder} of {row['name']} {row['version']}")
    return sorted(missing)


def relocation_updates(columns: Sequence[tuple[str, str]], before: Path, after: Path) -> list[Update]:
    """Return the SQL updates that move all locations below one folder to another folder.

    Args:
        columns: the columns to update, from `COLUMNS`.
        before: the old folder, absolute.
        after: the new folder, absolute.
    """
    pairs = zip(_forms(before), _forms(after), strict=True)
    return [_relocate(name, key, old, new) for old, new in pairs for name, key in columns if old != new]


def _of_runs(connection: Connection) -> list[str]:
    uris = connection.execute(select(column("artifact_uri", String)).select_from(table("runs"))).scalars()
    return [uri for uri in uris if uri]


def _inside(uri: str, root: Path) -> Path | None:
    """Return the path of a location below a folder, in any of MLflow's forms; None if it lies elsewhere."""
    if uri.startswith(_PROXIED):
        # assuming that the folder is the server's
        return root / unquote(urlsplit(uri).path).lstrip("/")
    as_uri, as_path = _forms(root)
    if uri.startswith(f"{as_uri}/"):
        return root / unquote(uri.removeprefix(f"{as_uri}/"))
    return Path(uri) if uri.startswith(f"{as_path}/") else None


def _forms(root: Path) -> tuple[str, str]:
    """Return the two forms in which MLflow stores a folder: a URI and a path."""
    return root.as_uri(), str(root)


def _relocate(name: str, key: str, old: str, new: str) -> Update:
    location = column(key, String)
    is_below = func.substr(location, 1, len(old) + 1) == f"{old}/"
    moved = literal(new, String) + func.substr(location, len(old) + 1)
    return update(table(name, location)).where(or_(location == old, is_below)).values({key: moved})
