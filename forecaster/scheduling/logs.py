"""Log lines as the service writes them: text for people, or JSON for machines (FORECASTER_LOG_FORMAT, …_LEVEL)."""

import logging
import os
import sys

from forecaster.domain.errors import ConfigError
from forecaster.domain.logs import JsonFormatter

_FIELDS = ("job", "run_id", "due", "attempt", "exit_code", "seconds", "outcome")
_LEVELS = ("critical", "error", "warning", "info", "debug")


def set_up() -> None:
    """Send log lines to standard error.

    Raises:
        ConfigError: a variable has a value that is none of its.
    """
    style, level = os.environ.get("FORECASTER_LOG_FORMAT", "text"), os.environ.get("FORECASTER_LOG_LEVEL", "info")
    if style not in ("text", "json") or level.lower() not in _LEVELS:
        raise ConfigError(f"FORECASTER_LOG_FORMAT, …_LEVEL: write text or json, and one of {', '.join(_LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    lines = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter(_FIELDS) if style == "json" else lines)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # it names addresses that are secrets
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
