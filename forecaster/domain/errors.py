"""The error tree.

    ForecasterError
    ├── ConfigError            a configuration cannot be read or does not make sense
    ├── DataError              a series or a file is not what it must be
    │   ├── FileFormatError    a file cannot be read as a table of series
    │   │   └── UnreadableFile     it is no plain file, or its content is cut, damaged or too large
    │   ├── SeriesError        a long frame or a request's series breaks a rule
    │   ├── TooShortError      a series has fewer rows than the work needs
    │   ├── CalendarError      an exchange's calendar is unknown or does not reach that far
    │   └── MarketDataError    a symbol's prices cannot be had, or cannot be trusted; says if a retry can help
    │       ├── UnknownSymbol      the source does not know it
    │       ├── NoData             the exchange had no session in the range
    │       ├── RateLimited        the source asks for fewer requests
    │       ├── SourceUnavailable  the source cannot be reached, or gives nothing where there must be something
    │       │   └── SourceUnreachable  the source answers no request at all; a batch ends
    │       ├── BadResponse        the source's answer is not of the form that it must have
    │       ├── QualityError       the prices break a rule, and nothing was stored
    │       │   └── Unconfirmed        a jump of the prices is neither explained nor confirmed
    │       └── StaleData          sessions have ended that are not stored
    ├── TrainingError          a fit went wrong (a loss that is not finite, a checkpoint that does not fit)
    │   └── LeakageError       what comes later changes what is prepared, fitted or forecast before it
    ├── WorkspaceError         a training's own files cannot be written, or another process is at work in them
    ├── BundleError            a bundle cannot be written, read or trusted
    │   └── ParityError        the exported graph does not answer as the trained model does
    ├── RegistryError          the tracking store or the registry cannot do what was asked
    │   ├── StoreUnavailable   it cannot be reached or written
    │   └── UnknownModel       no such model, version or alias
    ├── DatabaseUnavailable    the database of ledger, keys and jobs cannot be reached, read or written
    ├── ScheduleError          a job of the schedule cannot be run now
    ├── FleetError             the workers of a fleet cannot be started or reached, or its table not be written
    ├── BackupError            a backup cannot be made, trusted or put back
    └── RequestError           a forecast cannot be answered as asked (horizon, level, alias and version at once …)

Each message names the field, file and row where there is one and says what to do next.
"""

__all__ = [
    "BackupError",
    "BadResponse",
    "BundleError",
    "CalendarError",
    "ConfigError",
    "DataError",
    "DatabaseUnavailable",
    "FileFormatError",
    "FleetError",
    "ForecasterError",
    "LeakageError",
    "MarketDataError",
    "NoData",
    "ParityError",
    "QualityError",
    "RateLimited",
    "RegistryError",
    "RequestError",
    "ScheduleError",
    "SeriesError",
    "SourceUnavailable",
    "SourceUnreachable",
    "StaleData",
    "StoreUnavailable",
    "TooShortError",
    "TrainingError",
    "Unconfirmed",
    "UnknownModel",
    "UnknownSymbol",
    "UnreadableFile",
    "WorkspaceError",
]


class ForecasterError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(ForecasterError):
    """A configuration cannot be read or does not make sense."""


class DataError(ForecasterError):
    """A series or a file is not what it must be."""


class FileFormatError(DataError):
    """A file cannot be read as a table of series."""


class UnreadableFile(FileFormatError):
    """A file that a configuration names is missing, no plain file, cut, damaged or too large."""


class SeriesError(DataError):
    """A long frame, or a series in a request, breaks a rule."""


class TooShortError(DataError):
    """A series has fewer rows than the work needs."""


class CalendarError(DataError):
    """An exchange's calendar is unknown or does not reach that far."""


class MarketDataError(DataError):
    """A symbol's prices cannot be had, or cannot be trusted."""

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
    """The source asks for fewer requests; the whole batch must wait."""

    can_retry = True


class SourceUnavailable(MarketDataError):
    """The source cannot be reached, or gives nothing where there must be something."""

    can_retry = True


class SourceUnreachable(SourceUnavailable):
    """The source answers no request at all; other symbols of a batch would fare no better."""


class BadResponse(MarketDataError):
    """The source's answer is not of the form that it must have."""

    can_retry = True


class QualityError(MarketDataError):
    """The prices break a rule that no price may break; nothing was stored."""


class Unconfirmed(QualityError):
    """The prices jump, and neither an event nor a person explains it; the bars before the jump are stored."""


class StaleData(MarketDataError):
    """Sessions have ended that are not stored."""

    can_retry = True


class WorkspaceError(ForecasterError):
    """A training's own files cannot be written, or another process is at work in them; a later try may do better."""


class TrainingError(ForecasterError):
    """A fit went wrong."""


class LeakageError(TrainingError):
    """What comes later changes what is prepared, fitted or forecast before it."""


class BundleError(ForecasterError):
    """A bundle cannot be written, read or trusted."""


class ParityError(BundleError):
    """The exported graph does not answer as the trained model does."""


class RegistryError(ForecasterError):
    """The tracking store or the registry cannot do what was asked."""


class StoreUnavailable(RegistryError):
    """The tracking store cannot be reached or written."""


class UnknownModel(RegistryError):
    """There is no such model, version or alias."""


class DatabaseUnavailable(ForecasterError):
    """The database of ledger, keys and jobs cannot be reached, read or written."""


class ScheduleError(ForecasterError):
    """A job of the schedule cannot be run now."""


class FleetError(ForecasterError):
    """The workers of a fleet cannot be started or reached, or its table cannot be written."""


class BackupError(ForecasterError):
    """A backup cannot be made, trusted or put back."""


class RequestError(ForecasterError):
    """A forecast cannot be answered as asked."""
