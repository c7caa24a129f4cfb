"""The Open Inference Protocol, version 2, which Triton, KServe, MLServer and their clients use."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response, status
from fastapi.concurrency import run_in_threadpool
from pydantic_core import to_json

from forecaster.ledger.entries import Entry
from service.dependencies import ModelStoreDep, acquire_slot, parse_request, read_body
from service.exceptions import MalformedBody
from service.forecast_queue import ForecastQueue, RequestContext
from service.forecasting import POINT_BYTES
from service.inference import count_points, describe, find_version, infer
from service.limits import LARGE_BYTES
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
from service.responses import FieldError

LENGTH_HEADER = "Inference-Header-Content-Length"
_ANY: dict[int | str, dict[str, Any]] = {
    status: {"model": InferenceProblem, "description": HTTPStatus(status).phrase} for status in ANY_ROUTE
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": InferenceProblem, "description": "the model or version is not served"},
    **_ANY,
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": InferenceProblem, "description": "invalid inputs"},
    413: {"model": InferenceProblem, "description": "the body is too large"},
    **_UNKNOWN,
}
# the route reads the body itself, so FastAPI does not add it to OpenAPI
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
# without authentication, as the protocol's clients expect
probes = APIRouter(prefix="/v2/health", tags=["inference"])


@router.get("")
async def read_server(request: Request) -> ServerMetadata:
    """Return the server's name and version, and the supported extensions."""
    return ServerMetadata(name=request.app.title, version=request.app.version, extensions=["binary_tensor_data"])


@probes.get("/live")
async def read_server_liveness() -> ServerLive:
    """Return true while the process runs."""
    return ServerLive(live=True)


@probes.get("/ready", responses={503: {"model": ServerReady, "description": "no model is served yet"}})
async def read_server_readiness(model_store: ModelStoreDep, response: Response) -> ServerReady:
    """Return whether any model can forecast."""
    if not model_store.catalog:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return ServerReady(ready=bool(model_store.catalog))


@router.get("/models/{name}", responses=_UNKNOWN)
async def read_model_metadata(name: str, model_store: ModelStoreDep) -> ModelMetadata:
    """Return the metadata of the champion's tensors."""
    return describe(model_store.catalog, name, None)


@router.get("/models/{name}/versions/{version}", responses=_UNKNOWN)
async def read_version_metadata(name: str, version: str, model_store: ModelStoreDep) -> ModelMetadata:
    """Return the metadata of a version's tensors."""
    return describe(model_store.catalog, name, version)


@router.get("/models/{name}/ready", responses=_UNKNOWN)
async def read_model_readiness(name: str, model_store: ModelStoreDep) -> ModelReady:
    """Return true if the champion can forecast."""
    find_version(model_store.catalog, name, None)
    return ModelReady(name=name, ready=True)


@router.get("/models/{name}/versions/{version}/ready", responses=_UNKNOWN)
async def read_version_readiness(name: str, version: str, model_store: ModelStoreDep) -> ModelReady:
    """Return true if the version can forecast."""
    find_version(model_store.catalog, name, version)
    return ModelReady(name=name, ready=True)


@router.post("/models/{name}/infer", **_INFER)
async def infer_by_model(request: Request, name: str) -> Response:
    """Forecast a batch of windows with the champion."""
    return await _infer(request, name, None)


@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer_by_version(request: Request, name: str, version: str) -> Response:
    """Forecast a batch of windows with a version."""
    return await _infer(request, name, version)


async def _infer(request: Request, name: str, version: str | None) -> Response:
    state, resources = request.app.state, request.state.resources
    catalog, settings, limits = state.model_store.catalog, state.settings, state.limits
    queue: ForecastQueue = state.forecast_service.queue
    context = RequestContext(request.state.caller.client, request.state.caller.owner)
    body = await read_body(request, settings)
    length = _json_length(request, body)
    with limits.admit():
        inference_request = await parse_request(request, InferenceRequest, body[:length])
        n_points = count_points(inference_request, catalog, name, version, settings)
        # the ledger's entry holds each value again, with its time
        n_bytes = POINT_BYTES * n_points * (1 if inference_request.parameters.cutoffs is None else 3)
        resources.answer.resize(n_bytes)
        await acquire_slot(request, is_large=max(len(body), n_bytes) > LARGE_BYTES)

        def work() -> tuple[bytes, int | None, Entry | None]:
            rates = queue.miscoverage_rates
            answer = infer(inference_request, body[length:], catalog, name, version, settings, context, rates)
            header = to_json(answer.header)
            if answer.binary is None:
                return header, None, answer.entry
            return header + answer.binary, len(header), answer.entry

        content, header_length, entry = await run_in_threadpool(work)
        if entry is not None:
            await queue.write(entry)
    resources.body.resize(0)
    resources.answer.resize(min(len(content), n_bytes))
    resources.release_slot(limits.large)
    resources.release_slot(limits.small)
    if header_length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={LENGTH_HEADER: str(header_length)})


def _json_length(request: Request, body: bytes) -> int:
    """Return the length of a body's JSON in bytes.

    Raises:
        MalformedBody: the header with the length is invalid.
    """
    length = request.headers.get(LENGTH_HEADER, str(len(body)))
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body)):
        message = f"must be the length of the body's JSON in bytes, at most {len(body)}"
        raise MalformedBody([FieldError(location=LENGTH_HEADER, message=message)])
    return int(length)
