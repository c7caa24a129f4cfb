"""Who may ask for what: API keys, read from the database now and then, so that a revoked one ends without a restart."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Engine

from forecaster.database.keys import ALL, Key, read_keys, split_key
from service.exceptions import KeysUnknown, NotAllowed, NotAuthenticated

WAIT_SECONDS = 1
# how soon a database that does not answer is asked again
_RETRY_SECONDS = 2
_SCHEME = "bearer "
_log = logging.getLogger("forecaster.service")


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Args:
        client: the key's id, empty where none is needed.
        owner: whose key that is, likewise.
        is_for_all: whether it sees every owner's forecasts, and its actuals are every owner's.
    """

    client: str = ""
    owner: str = ""
    is_for_all: bool = False

    @property
    def sees(self) -> str | None:
        """Return the owner whose forecasts are shown, None for all."""
        return None if self.is_for_all else self.owner


@dataclass
class Keyring:
    """The keys that are good now; only `watch` writes to it.

    Args:
        engine: the database's.
        is_open: whether, as long as there is no key, nobody needs one.
        refresh_seconds: how long a revoked key may still be good.
    """

    engine: Engine
    is_open: bool
    refresh_seconds: float
    # None until the database has answered once
    keys: Mapping[str, Key] | None = field(default=None, init=False)
    # why they could not be read the last time
    last_problem: str | None = field(default=None, init=False)
    _known: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def wait(self) -> None:
        """Wait a moment for the keys, as long as they are not known: whoever comes while the service starts."""
        if self.keys is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), WAIT_SECONDS)

    async def watch(self) -> None:
        """Read the keys again and again, until cancelled; while the database is away, those of before count."""
        while True:
            try:
                await asyncio.to_thread(self.read)
            # whatever it is: without this loop a revoked key would be good for ever
            except Exception as error:
                _log.warning("the keys cannot be read: %s", error)
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
        """Return who sends a request, by the key that it shows.

        Raises:
            NotAuthenticated: it shows no key that is good.
            NotAllowed: its key has not that scope.
            KeysUnknown: the database has not answered yet.
        """
        keys = self.keys
        if not keys:
            if keys is None:
                raise KeysUnknown("the keys cannot be read just now; try again in a moment")
            if self.is_open:
                return Caller()
        shown = split_key(authorization[len(_SCHEME) :].strip()) if authorization.lower().startswith(_SCHEME) else None
        key = (keys or {}).get(shown[0]) if shown else None
        if shown is None or key is None or not key.has_secret(shown[1]) or key.revoked_at is not None:
            raise NotAuthenticated(
                "an API key is needed, as 'Authorization: Bearer fc_…'; this one is missing or not good"
            )
        if scope not in key.scopes:
            raise NotAllowed(f"this key may not do that: it lacks the scope '{scope}'")
        return Caller(key.key_id, key.owner, ALL in key.scopes)
