"""The error tree.

    ForecasterError
    ├── ConfigError            a configuration cannot be read or does not make sense
    ├── DataError              a series or a file is not what it must be
    │   ├── FileFormatError    a file cannot be read as a table of series
    │   ├── SeriesError        a long frame or a request's series breaks a rule
    │   └── TooShortError      a series has fewer rows than the work needs
    ├── TrainingError          a fit went wrong (a loss that is not finite, a checkpoint that does not fit)
    ├── BundleError            a bundle cannot be written, read or trusted
    │   └── ParityError        the exported graph does not answer as the trained model does
    ├── RegistryError          the tracking store or the registry cannot do what was asked
    │   ├── StoreUnavailable   it cannot be reached or written
    │   └── UnknownModel       no such model, version or alias
    └── RequestError           a forecast cannot be answered as asked (horizon, level, alias and version at once …)

Each message names the field, file and row where there is one and says what to do next.
"""

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "FileFormatError",
    "ForecasterError",
    "ParityError",
    "RegistryError",
    "RequestError",
    "SeriesError",
    "StoreUnavailable",
    "TooShortError",
    "TrainingError",
    "UnknownModel",
]


class ForecasterError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(ForecasterError):
    """A configuration cannot be read or does not make sense."""


class DataError(ForecasterError):
    """A series or a file is not what it must be."""


class FileFormatError(DataError):
    """A file cannot be read as a table of series."""


class SeriesError(DataError):
    """A long frame, or a series in a request, breaks a rule."""


class TooShortError(DataError):
    """A series has fewer rows than the work needs."""


class TrainingError(ForecasterError):
    """A fit went wrong."""


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


class RequestError(ForecasterError):
    """A forecast cannot be answered as asked."""
