"""What routes are given: the shelf, the settings, and a body read within its limit and checked against its schema."""

from typing import Annotated

from fastapi import Depends, Request
from pydantic import ValidationError

from service.catalog import Shelf
from service.problems import BodyTooLarge, MalformedBody
from service.schemas import ForecastRequest, Mistake

MOST_MISTAKES_SAID = 20


def get_shelf(request: Request) -> Shelf:
    """Return the app's shelf of models."""
    shelf: Shelf = request.app.state.shelf
    return shelf


ShelfDep = Annotated[Shelf, Depends(get_shelf)]


async def read_forecast_request(request: Request, shelf: ShelfDep) -> ForecastRequest:
    """Return the body as a forecast request.

    Parsed by pydantic from the bytes, which is faster than through Python objects, and says where without what: a value
    is never echoed.

    Raises:
        BodyTooLarge: the body is beyond the limit.
        MalformedBody: it is not JSON or not what the schema asks for.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > shelf.settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body is larger than {shelf.settings.max_body_bytes} bytes; ask in several requests"
            )
    try:
        return ForecastRequest.model_validate_json(bytes(body))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise MalformedBody(
            [Mistake(location=_path(mistake["loc"]), message=mistake["msg"]) for mistake in found[:MOST_MISTAKES_SAID]]
        ) from None


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "body"


ForecastBody = Annotated[ForecastRequest, Depends(read_forecast_request)]
