"""The application: `create_app(settings)` puts routes, errors and the shelf of models together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from service import problems
from service.catalog import Shelf
from service.protocol import InferenceRequest
from service.routes import forecasts, health, inference, models
from service.schemas import ForecastRequest
from service.settings import Settings

DESCRIPTION = "Forecasts of registered recurrent models, each with the skill that its recipe has shown."


def create_app(settings: Settings) -> FastAPI:
    """Return the service; its models are loaded when it starts."""
    app = FastAPI(title="forecaster", version="0.1.0", description=DESCRIPTION, lifespan=_watch_models)
    app.state.shelf = Shelf(settings)
    problems.install(app)
    for router in (health.router, models.router, forecasts.router, inference.router):
        app.include_router(router)
    _document_requests(app)
    return app


@asynccontextmanager
async def _watch_models(app: FastAPI) -> AsyncIterator[None]:
    watching = asyncio.create_task(app.state.shelf.watch())
    yield
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


def _document_requests(app: FastAPI) -> None:
    """Add the schemas of the bodies that dependencies read, which FastAPI cannot see by itself."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema["components"]["schemas"]
        for body in (ForecastRequest, InferenceRequest):
            described = body.model_json_schema(ref_template="#/components/schemas/{model}")
            components |= described.pop("$defs")
            components[body.__name__] = described
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
