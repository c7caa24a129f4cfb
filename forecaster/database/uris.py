"""Tracking URIs: what they point to, and how they are shown."""

from pathlib import Path

from sqlalchemy import make_url


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` URI, by the name under which SQLAlchemy opens it, or None for any other."""
    return Path(make_url(uri).database or "") if uri.startswith("sqlite:///") else None


def without_password(uri: str) -> str:
    """Return a URI as it may be shown: `postgresql+pg8000://me:***@host/mlflow`."""
    scheme, separator, rest = uri.partition("://")
    account, at, place = rest.rpartition("@")
    name, colon, _ = account.partition(":")
    return f"{scheme}{separator}{name}{colon and ':***'}{at}{place}"
