"""What routes are given: the shelf, the ledger, and a body read within its limit and checked against its schema."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from service.accounts import Accounts
from service.catalog import Shelf
from service.problems import BodyTooLarge, MalformedBody
from service.schemas import ActualsRequest, ForecastRequest, Mistake

MOST_MISTAKES_SAID = 20


def get_shelf(request: Request) -> Shelf:
    """Return the app's shelf of models."""
    shelf: Shelf = request.app.state.shelf
    return shelf


ShelfDep = Annotated[Shelf, Depends(get_shelf)]


def get_accounts(request: Request) -> Accounts:
    """Return the app's side of the ledger."""
    accounts: Accounts = request.app.state.accounts
    return accounts


AccountsDep = Annotated[Accounts, Depends(get_accounts)]


def get_client(request: Request) -> str:
    """Return the id of the key that asks, empty where none is needed."""
    client: str = getattr(request.state, "client", "")
    return client


ClientDep = Annotated[str, Depends(get_client)]
Content = TypeVar("Content", bound=BaseModel)


@dataclass(frozen=True)
class Body(Generic[Content]):
    """A request's body: as it came, and what it says."""

    raw: bytes
    parsed: Content


def body_of(schema: type[Content]) -> Callable[[Request, Shelf], Awaitable[Body[Content]]]:
    """Return a dependency that reads a body of that schema.

    Parsed by pydantic from the bytes, which is faster than through Python objects, and says where without what: a value
    is never echoed. It raises BodyTooLarge, and MalformedBody for what is not JSON or not what the schema asks for.
    """

    async def read(request: Request, shelf: ShelfDep) -> Body[Content]:
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > shelf.settings.max_body_bytes:
                raise BodyTooLarge(
                    f"the body is larger than {shelf.settings.max_body_bytes} bytes; ask in several requests"
                )
        try:
            return Body(bytes(raw), schema.model_validate_json(bytes(raw)))
        except ValidationError as error:
            raise MalformedBody(_mistakes(error)) from None

    return read


def _mistakes(error: ValidationError) -> list[Mistake]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [Mistake(location=_path(mistake["loc"]), message=mistake["msg"]) for mistake in found[:MOST_MISTAKES_SAID]]


def request_body(schema: str) -> dict[str, Any]:
    """Return what tells OpenAPI of a body that a dependency reads, and that it cannot see by itself."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "body"


ForecastBody = Annotated[Body[ForecastRequest], Depends(body_of(ForecastRequest))]
ActualsBody = Annotated[Body[ActualsRequest], Depends(body_of(ActualsRequest))]
