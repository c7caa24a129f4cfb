"""Database URLs and tracking URIs: their defaults, their parts, and how to show them without a password."""

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from forecaster.domain.errors import ConfigError

DEFAULT_TRACKING_URI = "sqlite:///mlruns/mlflow.db"
DEFAULT_DATABASE_URL = "sqlite:///mlruns/service.db"


def default_tracking_uri() -> str:
    """Return `FORECASTER_TRACKING_URI`, or the local store if it is unset or empty."""
    return os.environ.get("FORECASTER_TRACKING_URI") or DEFAULT_TRACKING_URI


def default_database_url() -> str:
    """Return `FORECASTER_DATABASE_URL`, or the local database if it is unset or empty."""
    return os.environ.get("FORECASTER_DATABASE_URL") or DEFAULT_DATABASE_URL


def database_url(url: str) -> URL:
    """Return a database URL, parsed.

    Raises:
        ConfigError: the text is not a URL.
    """
    try:
        return make_url(url)
    # ValueError: the port is not a number
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"database URL: '{without_password(url)}' is not a URL; write sqlite:///file.db or "
            "postgresql://user:password@host/database, with %40 for an @ in the password"
        ) from None


def sqlite_file(uri: str) -> Path | None:
    """Return the path that SQLAlchemy opens for a `sqlite:///` URI; None for other URIs."""
    return Path(database_url(uri).database or "") if uri.startswith("sqlite:///") else None


def mask_password(text: str, uri: str) -> str:
    """Return a text with the password of a URI masked: libraries repeat the URI in their error messages."""
    account, at, _ = uri.partition("://")[2].rpartition("@")
    name, colon, _ = account.partition(":")
    return text.replace(f"{account}@", f"{name}:***@") if at and colon else text


def without_password(uri: str) -> str:
    """Return a URI with its password masked: `postgresql+pg8000://me:***@host/mlflow`."""
    return mask_password(uri, uri)
