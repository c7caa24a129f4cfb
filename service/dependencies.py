"""What routes are given: the shelf, the settings, and a body read within its limit and checked against its schema."""

from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from service.catalog import Shelf
from service.problems import BodyTooLarge, MalformedBody
from service.schemas import ForecastRequest, Mistake
from service.settings import Settings

MOST_MISTAKES_SAID = 20
Body = TypeVar("Body", bound=BaseModel)


def get_shelf(request: Request) -> Shelf:
    """Return the app's shelf of models."""
    shelf: Shelf = request.app.state.shelf
    return shelf


ShelfDep = Annotated[Shelf, Depends(get_shelf)]


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return the body.

    Raises:
        BodyTooLarge: it is beyond the limit.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > settings.max_body_bytes:
            raise BodyTooLarge(f"the body is larger than {settings.max_body_bytes} bytes; ask in several requests")
    return bytes(body)


def parse_body(schema: type[Body], body: bytes) -> Body:
    """Return the body as its schema.

    Parsed by pydantic from the bytes, which is faster than through Python objects, and says where without what: a value
    is never echoed.

    Raises:
        MalformedBody: it is not JSON or not what the schema asks for.
    """
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise MalformedBody(
            [Mistake(location=_path(mistake["loc"]), message=mistake["msg"]) for mistake in found[:MOST_MISTAKES_SAID]]
        ) from None


async def read_forecast_request(request: Request, shelf: ShelfDep) -> ForecastRequest:
    """Return the body as a forecast request.

    Raises:
        BodyTooLarge, MalformedBody: as `read_body` and `parse_body` say.
    """
    return parse_body(ForecastRequest, await read_body(request, shelf.settings))


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "body"


ForecastBody = Annotated[ForecastRequest, Depends(read_forecast_request)]
