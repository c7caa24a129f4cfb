"""Where MLflow's database says that artifacts lie, as whole paths: what must change when they come to lie elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, String, Update, column, func, inspect, literal, or_, select, table, update

# every column of MLflow's tables that holds such a place
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
# a server's own form, which says nothing of the machine
_PROXIED = "mlflow-artifacts:"


def known_columns(connection: Connection) -> list[tuple[str, str]]:
    """Return those of `COLUMNS` that a database has; older MLflows have fewer."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    there = {(name, one["name"]) for name, _ in COLUMNS if name in tables for one in inspector.get_columns(name)}
    return [one for one in COLUMNS if one in there]


def places_elsewhere(connection: Connection, root: Path) -> list[str]:
    """Return where runs keep artifacts that are not below the folder `root`, sorted."""
    forms = _forms(root)
    uris = connection.execute(select(column("artifact_uri", String)).select_from(table("runs"))).scalars()
    # each is EXPERIMENT'S PLACE/RUN/artifacts
    return sorted(
        {uri.rsplit("/", 2)[0] for uri in uris if uri and not uri.startswith((_PROXIED, *(f"{one}/" for one in forms)))}
    )


def moves(columns: Sequence[tuple[str, str]], before: Path, after: Path) -> list[Update]:
    """Return what makes everything that lay below one folder lie below another.

    Args:
        columns: of `COLUMNS`.
        before: the old folder, absolute.
        after: the new one, absolute.
    """
    pairs = zip(_forms(before), _forms(after), strict=True)
    return [_move(name, place, old, new) for old, new in pairs for name, place in columns if old != new]


def _forms(root: Path) -> tuple[str, str]:
    """Return a folder as MLflow writes it: as a URI, and as a path."""
    return root.as_uri(), str(root)


def _move(name: str, place: str, old: str, new: str) -> Update:
    found = column(place, String)
    below = func.substr(found, 1, len(old) + 1) == f"{old}/"
    moved = literal(new, String) + func.substr(found, len(old) + 1)
    return update(table(name, found)).where(or_(found == old, below)).values({place: moved})
