"""What a source answers, checked at the boundary: a model of its JSON, and what is wrong by the field's path."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

ResponseT = TypeVar("ResponseT")
ItemT = TypeVar("ItemT")
# the first mistake is enough, and a hostile answer has millions
Column = Annotated[tuple[ItemT, ...], FailFast()]
# beyond these there is no price, volume or day; pandas overflows later
Amount = Annotated[float, Field(ge=0, le=1e15)]
Seconds = Annotated[int, Field(ge=-3_000_000_000, le=5_000_000_000)]


class InvalidResponse(ValueError):
    """An answer is not of the form that it must have; says which field."""


class ResponseModel(BaseModel):
    """Base of what a source answers: text is no number, and what is not asked for is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


def parse_response(kind: TypeAdapter[ResponseT], content: bytes, what: str) -> ResponseT:
    """Return JSON as what it must be.

    Args:
        kind: what it must be.
        content: the answer.
        what: the same in words, such as "a chart".

    Raises:
        InvalidResponse: it is not JSON, or a field is missing or of another kind.
    """
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        raise InvalidResponse(_words(error.errors(include_url=False)[0], what)) from None


def _words(mistake: Any, what: str) -> str:
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
