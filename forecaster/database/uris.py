"""Tracking URIs: what they point to, and how they are shown."""

from pathlib import Path


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` URI, or None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def without_password(uri: str) -> str:
    """Return a URI as it may be shown: `postgresql+pg8000://me:***@host/mlflow`."""
    scheme, separator, rest = uri.partition("://")
    account, at, place = rest.rpartition("@")
    name, colon, _ = account.partition(":")
    return f"{scheme}{separator}{name}{colon and ':***'}{at}{place}"
