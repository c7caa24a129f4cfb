"""API keys: shown once when they are made, kept as digests, compared in constant time, revoked at any moment.

A key is `fc_ID_SECRET`. Its secret has 256 random bits, which a fast hash keeps as safe as a slow one would.
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
from forecaster.domain.instants import now_at

# what a key may be allowed: to ask for forecasts, to send actuals, to see what the operator sees; and beside these, to
# do so for all owners
ALL = "all"
SCOPES = ("forecast", "actuals", "admin", ALL)
_LONGEST = 200
_PREFIX = "fc"


@dataclass(frozen=True)
class Key:
    """A key as it is kept.

    Args:
        key_id: its public part.
        digest: of its secret, SHA-256.
        name: how it is called.
        owner: whose it is: keys of one owner see the same forecasts and actuals.
        scopes: what it is allowed.
        created_at: microseconds since 1970.
        revoked_at: likewise; None while it is good.
    """

    key_id: str
    digest: str
    name: str
    owner: str
    scopes: tuple[str, ...]
    created_at: int
    revoked_at: int | None

    def has_secret(self, secret: str) -> bool:
        """Say whether `secret` is this key's, in a time that does not tell how much of it is."""
        return hmac.compare_digest(self.digest, _digest(secret))


def create_key(engine: Engine, name: str, scopes: Sequence[str], owner: str | None = None) -> str:
    """Make a key and return it, this once.

    Args:
        engine: the database's.
        name: how it is called, 1 to 200 characters.
        scopes: some of `SCOPES`.
        owner: whose it is, the name's when None; empty: of those who asked while no key was needed.

    Raises:
        RequestError: a scope is unknown, or there is none, or a name is too long.
        DatabaseUnavailable: the database does not answer.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise RequestError(f"scope: {unknown or 'none given'}; there are {', '.join(SCOPES)}")
    if not 1 <= len(name) <= _LONGEST:
        raise RequestError(f"name: it has {len(name)} characters; write 1 to {_LONGEST}")
    if owner is not None and len(owner) > _LONGEST:
        raise RequestError(f"owner: it has {len(owner)} characters; write {_LONGEST} at most")
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    row = {
        "key_id": key_id,
        "digest": _digest(secret),
        "name": name,
        "owner": name if owner is None else owner,
        "scopes": " ".join(scope for scope in SCOPES if scope in scopes),
        "created_at": now_at(),
    }
    with transaction(engine) as connection:
        connection.execute(insert(KEYS).values(row))
    return f"{_PREFIX}_{key_id}_{secret}"


def revoke_key(engine: Engine, key_id: str) -> None:
    """Make a key no longer good.

    Raises:
        RequestError: there is no such key, or it is revoked already.
        DatabaseUnavailable: the database does not answer.
    """
    good = (KEYS.c.key_id == key_id) & KEYS.c.revoked_at.is_(None)
    with transaction(engine) as connection:
        changed = connection.execute(update(KEYS).where(good).values(revoked_at=now_at()))
    if not changed.rowcount:
        raise RequestError(f"key '{key_id}': there is none, or it is revoked already; list them")


def read_keys(engine: Engine) -> list[Key]:
    """Return every key, the oldest first, revoked ones too.

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
    """Return a key's id and secret, None if it has not the form of one."""
    parts = key.split("_", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == _PREFIX else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
