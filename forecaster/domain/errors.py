"""The error tree.

    ForecasterError
    ├── ConfigError            a configuration is unreadable or invalid
    ├── DataError              a series or a data file is invalid
    │   ├── FileFormatError    a file cannot be read as a table of series
    │   │   └── UnreadableFile     not a plain file, or truncated, damaged or too large
    │   ├── SeriesError        a long frame or a request's series is invalid
    │   ├── TooShortError      a series has too few rows
    │   ├── CalendarError      an exchange's calendar is unknown or ends too early
    │   └── MarketDataError    a symbol's prices are unavailable or not trusted; `can_retry` if a retry can help
    │       ├── UnknownSymbol      the source does not know the symbol
    │       ├── NoData             the exchange had no session in the range
    │       ├── RateLimited        the source limits the request rate
    │       ├── SourceUnavailable  the source failed, or returned no bars for days with sessions
    │       │   └── SourceUnreachable  the source does not respond to any request; a batch ends
    │       ├── BadResponse        the source's response is invalid
    │       ├── QualityError       the prices break a hard rule and were not stored
    │       │   └── Unconfirmed        the prices jump and nobody has confirmed the jump
    │       └── StaleData          the store lacks sessions that have ended
    ├── TrainingError          a fit failed (a loss that is not finite, a checkpoint that does not fit)
    │   └── LeakageError       later data changes the preparation, the fit or the forecast of earlier data
    ├── WorkspaceError         a training's files cannot be written, or another process uses them
    ├── BundleError            a bundle cannot be written, read or trusted
    │   └── ParityError        the exported graph and the trained model give different forecasts
    ├── RegistryError          the tracking store or the registry failed
    │   ├── StoreUnavailable   the store cannot be reached or written
    │   └── UnknownModel       no such model, version or alias
    ├── DatabaseUnavailable    the database of ledger, keys and jobs cannot be reached, read or written
    ├── ScheduleError          a scheduled job cannot run now
    ├── FleetError             workers of a fleet or a search cannot be started or reached, or a table cannot be written
    ├── BackupError            a backup cannot be made, trusted or restored
    ├── RequestError           a forecast request is invalid (horizon, level, both alias and version …)
    └── ClientError            the HTTP client's base class; raised itself if its address or key is invalid
        ├── RequestRefused     the service refuses the request; a retry would not help
        │   ├── NotAllowed         the key is missing or unknown, or lacks a scope
        │   └── TooManyRequests    the service limits the request rate, also after all retries
        ├── ServiceUnavailable  the service cannot be reached or cannot answer now, also after all retries
        └── BadAnswer          the answer does not come from the service

Each message names the field, file and row, where there is one, and says what to do next.
"""

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BackupError",
    "BadAnswer",
    "BadResponse",
    "BundleError",
    "CalendarError",
    "ClientError",
    "ConfigError",
    "DataError",
    "DatabaseUnavailable",
    "FileFormatError",
    "FleetError",
    "ForecasterError",
    "LeakageError",
    "MarketDataError",
    "NoData",
    "NotAllowed",
    "ParityError",
    "QualityError",
    "RateLimited",
    "RegistryError",
    "RequestError",
    "RequestRefused",
    "ScheduleError",
    "SeriesError",
    "ServiceUnavailable",
    "SourceUnavailable",
    "SourceUnreachable",
    "StaleData",
    "StoreUnavailable",
    "TooManyRequests",
    "TooShortError",
    "TrainingError",
    "Unconfirmed",
    "UnknownModel",
    "UnknownSymbol",
    "UnreadableFile",
    "WorkspaceError",
]


class ForecasterError(Exception):
    """Base class of all errors of this project."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error cross a process boundary whole, whatever its constructor takes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(ForecasterError):
    """A configuration is unreadable or invalid."""


class DataError(ForecasterError):
    """A series or a data file is invalid."""


class FileFormatError(DataError):
    """A file cannot be read as a table of series."""


class UnreadableFile(FileFormatError):
    """A file is not a plain file, or it is truncated, damaged or too large."""


class SeriesError(DataError):
    """A long frame or a request's series is invalid."""


class TooShortError(DataError):
    """A series has too few rows."""


class CalendarError(DataError):
    """An exchange's calendar is unknown or ends too early."""


class MarketDataError(DataError):
    """A symbol's prices are unavailable or not trusted.

    Attributes:
        can_retry: whether a retry can help.
        symbol: as the source spells it.
        message: the error without the symbol.
    """

    can_retry = False

    def __init__(self, symbol: str, message: str) -> None:
        super().__init__(f"{symbol}: {message}")
        self.symbol = symbol
        self.message = message


class UnknownSymbol(MarketDataError):
    """The source does not know the symbol."""


class NoData(MarketDataError):
    """The exchange had no completed session in the range."""


class RateLimited(MarketDataError):
    """The source limits the request rate; the whole batch must wait."""

    can_retry = True


class SourceUnavailable(MarketDataError):
    """The source failed, or returned no bars for days with sessions."""

    can_retry = True


class SourceUnreachable(SourceUnavailable):
    """The source does not respond to any request; a batch ends, since its other symbols would fail too."""


class BadResponse(MarketDataError):
    """The source's response is invalid."""

    can_retry = True


class QualityError(MarketDataError):
    """The prices break a hard rule and were not stored."""


class Unconfirmed(QualityError):
    """The prices jump and nobody has confirmed the jump; only the bars before it are stored."""


class StaleData(MarketDataError):
    """The store lacks sessions that have ended."""

    can_retry = True


class WorkspaceError(ForecasterError):
    """A training's files cannot be written, or another process uses them; a later retry can succeed."""


class TrainingError(ForecasterError):
    """A fit failed."""


class LeakageError(TrainingError):
    """Later data changes the preparation, the fit or the forecast of earlier data."""


class BundleError(ForecasterError):
    """A bundle cannot be written, read or trusted."""


class ParityError(BundleError):
    """The exported graph and the trained model give different forecasts."""


class RegistryError(ForecasterError):
    """The tracking store or the registry failed."""


class StoreUnavailable(RegistryError):
    """The tracking store cannot be reached or written."""


class UnknownModel(RegistryError):
    """There is no such model, version or alias."""


class DatabaseUnavailable(ForecasterError):
    """The database of ledger, keys and jobs cannot be reached, read or written."""


class ScheduleError(ForecasterError):
    """A scheduled job cannot run now."""


class FleetError(ForecasterError):
    """Workers of a fleet or a search cannot be started or reached, or a table cannot be written."""


class BackupError(ForecasterError):
    """A backup cannot be made, trusted or restored."""


class RequestError(ForecasterError):
    """A forecast request is invalid."""


class ClientError(ForecasterError):
    """A request through the client failed."""


class RequestRefused(ClientError):
    """The service refuses the request.

    Args:
        status: the HTTP status, 4xx.
        detail: the service's explanation.
        errors: the mistakes in the request's body, each with `location` and `message`.
    """

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(f"refused ({status}): {detail}")
        self.status = status
        self.detail = detail
        self.errors = [dict(mistake) for mistake in errors]


class NotAllowed(RequestRefused):
    """The key is missing or unknown (401), or lacks the scope for the request (403)."""


class TooManyRequests(RequestRefused):
    """The service limits the request rate (429).

    Args:
        detail: the service's explanation.
        retry_after_seconds: the delay that the service asks for; None if it names none.
    """

    def __init__(self, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(429, detail)
        self.retry_after_seconds = retry_after_seconds


class ServiceUnavailable(ClientError):
    """The service cannot be reached, does not answer in time, or answers that it cannot now (5xx)."""


class BadAnswer(ClientError):
    """The answer does not come from the service: another program listens at the address."""
