"""API keys: shown once when they are created, stored as digests, compared in constant time, revocable at any moment.

A key is `fc_ID_SECRET`. Its secret has 256 random bits, so a fast hash protects it as well as a slow one would.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select, update

from forecaster.database.engine import transaction
from forecaster.database.tables import KEYS
from forecaster.domain.errors import RequestError
from forecaster.domain.instants import now_microseconds

# request forecasts, send actuals, use the operator's routes; `all` extends the other scopes to all owners' data
ALL = "all"
SCOPES = ("forecast", "actuals", "admin", ALL)
_MAX_LENGTH = 200
_PREFIX = "fc"


@dataclass(frozen=True)
class Key:
    """A key as it is stored.

    Args:
        key_id: the public part.
        digest: SHA-256 of the secret.
        name: a name for people.
        owner: keys of the same owner see the same forecasts and actuals.
        scopes: some of `SCOPES`.
        created_at: microseconds since 1970.
        revoked_at: microseconds since 1970; None while the key is valid.
    """

    key_id: str
    digest: str
    name: str
    owner: str
    scopes: tuple[str, ...]
    created_at: int
    revoked_at: int | None

    def has_secret(self, secret: str) -> bool:
        """Return whether `secret` is this key's, in constant time."""
        return hmac.compare_digest(self.digest, _digest(secret))


def create_key(engine: Engine, name: str, scopes: Sequence[str], owner: str | None = None) -> str:
    """Create a key and return it. It cannot be read again later.

    Args:
        engine: the engine of the database.
        name: a name for people, 1 to 200 characters.
        scopes: at least one of `SCOPES`.
        owner: `name` when None; empty for the owner of the data that was recorded before any key existed.

    Raises:
        RequestError: a scope is unknown or none is given, or the name or the owner is too long.
        DatabaseUnavailable: the database does not answer.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise RequestError(f"scope: {unknown or 'none given'}; choose from {', '.join(SCOPES)}")
    if not 1 <= len(name) <= _MAX_LENGTH:
        raise RequestError(f"name: it has {len(name)} characters; write 1 to {_MAX_LENGTH}")
    if owner is not None and len(owner) > _MAX_LENGTH:
        raise RequestError(f"owner: it has {len(owner)} characters; write at most {_MAX_LENGTH}")
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    row = {
        "key_id": key_id,
        "digest": _digest(secret),
        "name": name,
        "owner": name if owner is None else owner,
        "scopes": " ".join(scope for scope in SCOPES if scope in scopes),
        "created_at": now_microseconds(),
    }
    with transaction(engine) as connection:
        connection.execute(insert(KEYS).values(row))
    return f"{_PREFIX}_{key_id}_{secret}"


def revoke_key(engine: Engine, key_id: str) -> None:
    """Revoke a key.

    Raises:
        RequestError: the key does not exist or was revoked before.
        DatabaseUnavailable: the database does not answer.
    """
    is_valid = (KEYS.c.key_id == key_id) & KEYS.c.revoked_at.is_(None)
    with transaction(engine) as connection:
        changed = connection.execute(update(KEYS).where(is_valid).values(revoked_at=now_microseconds()))
    if not changed.rowcount:
        raise RequestError(f"key '{key_id}': it does not exist, or was revoked before; list the keys")


def read_keys(engine: Engine) -> list[Key]:
    """Return all keys, including revoked keys, the oldest first.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction(engine) as connection:
        rows = connection.execute(select(KEYS).order_by(KEYS.c.created_at)).all()
    return [
        Key(row.key_id, row.digest, row.name, row.owner, tuple(row.scopes.split()), row.created_at, row.revoked_at)
        for row in rows
    ]


def split_key(key: str) -> tuple[str, str] | None:
    """Return the id and the secret of a key; None if the text is not formatted like a key."""
    parts = key.split("_", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == _PREFIX else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
