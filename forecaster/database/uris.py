"""URIs of MLflow and of databases: their defaults, what they point to, and how they are shown."""

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from forecaster.domain.errors import ConfigError

DEFAULT_TRACKING_URI = "sqlite:///mlruns/mlflow.db"
DEFAULT_DATABASE_URL = "sqlite:///mlruns/service.db"


def default_tracking_uri() -> str:
    """Return `FORECASTER_TRACKING_URI`, or the local store where it is unset or empty."""
    return os.environ.get("FORECASTER_TRACKING_URI") or DEFAULT_TRACKING_URI


def default_database_url() -> str:
    """Return `FORECASTER_DATABASE_URL`, or the local database where it is unset or empty."""
    return os.environ.get("FORECASTER_DATABASE_URL") or DEFAULT_DATABASE_URL


def database_url(url: str) -> URL:
    """Return a database's URL in its parts.

    Raises:
        ConfigError: it has none.
    """
    try:
        return make_url(url)
    # the latter of a port that is no number
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"database URL: '{without_password(url)}' is none; write sqlite:///file.db or "
            "postgresql://user:password@host/database, with %40 for an @ in the password"
        ) from None


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` URI, by the name under which SQLAlchemy opens it, or None for any other."""
    return Path(database_url(uri).database or "") if uri.startswith("sqlite:///") else None


def without_password(uri: str) -> str:
    """Return a URI as it may be shown: `postgresql+pg8000://me:***@host/mlflow`."""
    scheme, separator, rest = uri.partition("://")
    account, at, place = rest.rpartition("@")
    name, colon, _ = account.partition(":")
    return f"{scheme}{separator}{name}{colon and ':***'}{at}{place}"
