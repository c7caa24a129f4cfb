"""The Open Inference Protocol, version 2: what Triton, KServe and MLServer speak, and their clients."""

import json
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response, status
from fastapi.concurrency import run_in_threadpool

from service.catalog import Shelf
from service.dependencies import LimitsDep, ShelfDep, parse_body, read_body
from service.inference import describe, find_version, infer
from service.problems import ANY_ROUTE
from service.protocol import (
    InferenceProblem,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.refusals import MalformedBody
from service.schemas import Mistake

LENGTH_HEADER = "Inference-Header-Content-Length"
_ANY: dict[int | str, dict[str, Any]] = {
    status: {"model": InferenceProblem, "description": HTTPStatus(status).phrase} for status in ANY_ROUTE
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": InferenceProblem, "description": "not served"}, **_ANY}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": InferenceProblem, "description": "not what the model takes"},
    413: {"model": InferenceProblem, "description": "the body is too large"},
    **_UNKNOWN,
}
# the body is read by a dependency, so OpenAPI is told of it here
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
_INFER: dict[str, Any] = {
    "response_model": InferenceResponse,
    "responses": _REFUSED,
    "openapi_extra": {"requestBody": _REQUEST_BODY},
}

router = APIRouter(prefix="/v2", tags=["inference"], responses=_ANY)
# open to everybody, as the protocol's clients expect of them
probes = APIRouter(prefix="/v2/health", tags=["inference"])


async def read_inference_request(request: Request, shelf: ShelfDep) -> tuple[InferenceRequest, bytes]:
    """Return the body's JSON as a request, and the bytes behind it.

    Raises:
        BodyTooLarge: the body is beyond the limit.
        MalformedBody: it is not JSON, not what the schema asks for, or shorter than the header says.
    """
    body = await read_body(request, shelf.settings)
    length = request.headers.get(LENGTH_HEADER, str(len(body)))
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body)):
        raise MalformedBody(
            [Mistake(location=LENGTH_HEADER, message=f"must be the length of the body's JSON, up to {len(body)}")]
        )
    return parse_body(InferenceRequest, body[: int(length)]), body[int(length) :]


InferenceBody = Annotated[tuple[InferenceRequest, bytes], Depends(read_inference_request)]


@router.get("")
async def read_server(request: Request) -> ServerMetadata:
    """Say what answers."""
    return ServerMetadata(name=request.app.title, version=request.app.version, extensions=["binary_tensor_data"])


@probes.get("/live")
async def read_server_liveness() -> ServerLive:
    """Say that the process answers."""
    return ServerLive(live=True)


@probes.get("/ready", responses={503: {"model": ServerReady, "description": "no model can be served yet"}})
async def read_server_readiness(shelf: ShelfDep, response: Response) -> ServerReady:
    """Say whether any model can be asked."""
    if not shelf.catalog:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return ServerReady(ready=bool(shelf.catalog))


@router.get("/models/{name}", responses=_UNKNOWN)
async def read_model_metadata(name: str, shelf: ShelfDep) -> ModelMetadata:
    """Return the champion's tensors."""
    return describe(shelf.catalog, name, None)


@router.get("/models/{name}/versions/{version}", responses=_UNKNOWN)
async def read_version_metadata(name: str, version: str, shelf: ShelfDep) -> ModelMetadata:
    """Return a version's tensors."""
    return describe(shelf.catalog, name, version)


@router.get("/models/{name}/ready", responses=_UNKNOWN)
async def read_model_readiness(name: str, shelf: ShelfDep) -> ModelReady:
    """Say that the champion can be asked."""
    find_version(shelf.catalog, name, None)
    return ModelReady(name=name, ready=True)


@router.get("/models/{name}/versions/{version}/ready", responses=_UNKNOWN)
async def read_version_readiness(name: str, version: str, shelf: ShelfDep) -> ModelReady:
    """Say that a version can be asked."""
    find_version(shelf.catalog, name, version)
    return ModelReady(name=name, ready=True)


@router.post("/models/{name}/infer", **_INFER)
async def infer_by_model(body: InferenceBody, name: str, shelf: ShelfDep, limits: LimitsDep) -> Response:
    """Forecast a batch of windows by the champion."""
    async with limits.room():
        return await _infer(body, shelf, name, None)


@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer_by_version(
    body: InferenceBody, name: str, version: str, shelf: ShelfDep, limits: LimitsDep
) -> Response:
    """Forecast a batch of windows by a version."""
    async with limits.room():
        return await _infer(body, shelf, name, version)


async def _infer(body: tuple[InferenceRequest, bytes], shelf: Shelf, name: str, version: str | None) -> Response:
    answer = await run_in_threadpool(infer, *body, shelf.catalog, name, version, shelf.settings)
    header = json.dumps(answer.header, allow_nan=False).encode()
    if answer.binary is None:
        return Response(header, media_type="application/json")
    return Response(
        header + answer.binary, media_type="application/octet-stream", headers={LENGTH_HEADER: str(len(header))}
    )
