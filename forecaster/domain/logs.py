"""Logging to standard error, as text or as one JSON object per line."""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

from forecaster.domain.errors import ConfigError

# fields added to every line, such as the request id
CONTEXT: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))
# record attributes that the JSON line includes
FIELDS = (
    *("method", "route", "status", "seconds", "client"),
    *("job", "run_id", "due", "attempt", "exit_code", "outcome"),
)
# these log every request at INFO, and a URL may contain a secret
_HTTP_CLIENTS = ("httpx2", "httpcore2")


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the record's `FIELDS` and the current `CONTEXT`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON, with its traceback under `error`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **CONTEXT.get(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """One line per record, followed by the values of the current `CONTEXT` in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        # escape line breaks in values from clients, but keep those of the traceback
        text, line_break, error = super().format(record).partition("\nTraceback")
        safe = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
        context = " ".join(CONTEXT.get().values())
        return f"{safe}{f' [{context}]' if context else ''}{line_break}{error}"


_LEVELS = ("critical", "error", "warning", "info", "debug")
_FORMATTERS: dict[str, Callable[[], logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def set_up(level: str, style: str) -> None:
    """Log at `level` and above to standard error, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[style]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _HTTP_CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_up_from_environment() -> None:
    """Set up logging from `FORECASTER_LOG_LEVEL` (default `info`) and `FORECASTER_LOG_FORMAT` (default `text`).

    Raises:
        ConfigError: a variable has an unknown value.
    """
    level, style = os.environ.get("FORECASTER_LOG_LEVEL", "info"), os.environ.get("FORECASTER_LOG_FORMAT", "text")
    if level.lower() not in _LEVELS:
        raise ConfigError(f"FORECASTER_LOG_LEVEL: must be one of {', '.join(_LEVELS)}, not {level!r}")
    if style not in _FORMATTERS:
        raise ConfigError(f"FORECASTER_LOG_FORMAT: must be {' or '.join(_FORMATTERS)}, not {style!r}")
    set_up(level, style)
