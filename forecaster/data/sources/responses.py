"""Validate JSON responses of sources against pydantic models; errors name the field's path."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

ResponseT = TypeVar("ResponseT")
ItemT = TypeVar("ItemT")
# stop at the first mistake, because a hostile response could have millions
Column = Annotated[tuple[ItemT, ...], FailFast()]
# bounds of prices, volumes and times; larger values would overflow in pandas
Amount = Annotated[float, Field(ge=0, le=1e15)]
Seconds = Annotated[int, Field(ge=-3_000_000_000, le=5_000_000_000)]


class InvalidResponse(ValueError):
    """A response is not valid; the message names the field."""


class ResponseModel(BaseModel):
    """Base class of responses: text is not converted to numbers, and unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


def parse_response(kind: TypeAdapter[ResponseT], content: bytes, what: str) -> ResponseT:
    """Parse and validate a JSON response.

    Args:
        kind: the expected type.
        content: the response body.
        what: the name of the expected type for error messages, such as "a chart".

    Raises:
        InvalidResponse: the content is not JSON, or a field is missing or invalid.
    """
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        raise InvalidResponse(_describe(error.errors(include_url=False)[0], what)) from None


def _describe(mistake: Any, what: str) -> str:
    if mistake["type"] == "json_invalid":
        return f"it is not JSON ({mistake['ctx']['error']})"
    path = ".".join(str(part) for part in mistake["loc"])
    if not path:
        return f"it is not {what}"
    if mistake["type"] == "missing":
        return f"{path} is missing"
    message: str = mistake["msg"].removeprefix("Value error, ")
    given = mistake["input"]
    shown = f", got {given!r:.40}" if isinstance(given, str | int | float | None) else ""
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}"
