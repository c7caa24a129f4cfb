"""Authentication by API keys. The keys are reread periodically, so a revoked key stops working without a restart."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Engine

from forecaster.database.keys import ALL, Key, read_keys, split_key
from service.exceptions import KeysUnavailable, NotAuthenticated, PermissionDenied

WAIT_SECONDS = 1
# retry interval while the database does not answer
_RETRY_SECONDS = 2
_SCHEME = "bearer "
_log = logging.getLogger("forecaster.service")


@dataclass(frozen=True)
class Caller:
    """The authenticated sender of a request.

    Args:
        client: the id of its API key; empty if no key is required.
        owner: the owner of that key; empty if no key is required.
        is_for_all: whether it reads every owner's forecasts, and its actuals score every owner's forecasts.
    """

    client: str = ""
    owner: str = ""
    is_for_all: bool = False

    @property
    def visible_owner(self) -> str | None:
        """Return the owner whose forecasts the caller may read, None for all owners."""
        return None if self.is_for_all else self.owner


@dataclass
class Keyring:
    """The known API keys. Only `watch` changes them.

    Args:
        engine: the engine of the service's database.
        is_open: whether requests need no key while the database has none.
        refresh_seconds: interval between reads, so how long a revoked key may still be accepted.
    """

    engine: Engine
    is_open: bool
    refresh_seconds: float
    # None until the database has answered once
    keys: Mapping[str, Key] | None = field(default=None, init=False)
    # why the last read failed
    last_problem: str | None = field(default=None, init=False)
    _known: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def wait(self) -> None:
        """Wait up to `WAIT_SECONDS` for the first read of the keys, for requests that arrive during startup."""
        if self.keys is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), WAIT_SECONDS)

    async def watch(self) -> None:
        """Reread the keys periodically until cancelled; while the database is unreachable, keep the last ones."""
        while True:
            try:
                await asyncio.to_thread(self.read)
            # if this loop ended, revoked keys would be accepted for ever
            except Exception as error:
                _log.warning("the API keys cannot be read: %s", error)
                self.last_problem = "the database does not answer; see the log"
                await asyncio.sleep(min(self.refresh_seconds, _RETRY_SECONDS))
            else:
                self.last_problem = None
                self._known.set()
                await asyncio.sleep(self.refresh_seconds)

    def read(self) -> None:
        """Read the keys.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        self.keys = {key.key_id: key for key in read_keys(self.engine)}

    def check(self, authorization: str, scope: str) -> Caller:
        """Return the caller that an `Authorization` header identifies.

        Raises:
            NotAuthenticated: there is no valid key in the header.
            PermissionDenied: the key lacks the scope.
            KeysUnavailable: the keys have not been read yet.
        """
        keys = self.keys
        if not keys:
            if keys is None:
                raise KeysUnavailable("the API keys cannot be read at the moment; retry")
            if self.is_open:
                return Caller()
        sent = split_key(authorization[len(_SCHEME) :].strip()) if authorization.lower().startswith(_SCHEME) else None
        key = (keys or {}).get(sent[0]) if sent else None
        if sent is None or key is None or not key.has_secret(sent[1]) or key.revoked_at is not None:
            raise NotAuthenticated("the API key is missing or invalid; send 'Authorization: Bearer fc_…'")
        if scope not in key.scopes:
            raise PermissionDenied(f"the API key lacks the scope '{scope}'")
        return Caller(key.key_id, key.owner, ALL in key.scopes)
