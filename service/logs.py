"""Log lines: text for people, or JSON for machines, each with the id of the request that it belongs to."""

import logging
import sys
from contextvars import ContextVar
from typing import Literal

from forecaster.domain.logs import JsonFormatter

# of the request that is being answered
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_FIELDS = ("method", "route", "status", "seconds", "client")


def json_formatter() -> JsonFormatter:
    """Return what writes a record as JSON, with the request that it belongs to."""
    return JsonFormatter(_FIELDS, _request)


def _request() -> dict[str, str]:
    request_id = REQUEST_ID.get()
    return {"request_id": request_id} if request_id else {}


class TextFormatter(logging.Formatter):
    """One line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, with the request's id behind it."""
        request_id = REQUEST_ID.get()
        # a name that was sent may have a line's end in it; an error's own lines stay
        text, line_end, error = super().format(record).partition("\nTraceback")
        safe = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
        return f"{safe}{f' [{request_id}]' if request_id else ''}{line_end}{error}"


def set_up(level: str, style: Literal["text", "json"]) -> None:
    """Send every log line to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
