"""Log lines for machines: one JSON object each."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with what it is about in fields of their own."""

    def __init__(self, fields: tuple[str, ...], context: Callable[[], dict[str, str]] = dict) -> None:
        """Make one.

        Args:
            fields: of a record, which its line gets where it has them.
            context: what every line gets just now.
        """
        super().__init__()
        self._fields, self._context = fields, context

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON, its error with it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._context(),
            **{name: getattr(record, name) for name in self._fields if hasattr(record, name)},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
