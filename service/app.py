"""The application: `create_app(settings)` puts routes, errors and the shelf of models together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from service import problems
from service.accounts import Accounts
from service.catalog import Shelf
from service.routes import dashboard, forecasts, health, models, series, truth
from service.schemas import ActualsRequest, ForecastRequest
from service.settings import Settings

DESCRIPTION = "Forecasts of registered recurrent models, each with the skill that its recipe has shown."


def create_app(settings: Settings) -> FastAPI:
    """Return the service; its models are loaded when it starts."""
    app = FastAPI(title="forecaster", version="0.1.0", description=DESCRIPTION, lifespan=_work)
    app.state.shelf = Shelf(settings)
    app.state.accounts = Accounts(settings)
    problems.install(app)
    for subject in (dashboard, health, models, series, forecasts, truth):
        app.include_router(subject.router)
    app.mount("/dashboard", dashboard.FILES)
    _document_bodies(app)
    return app


@asynccontextmanager
async def _work(app: FastAPI) -> AsyncIterator[None]:
    """Watch the models and write the ledger as long as the service runs."""
    accounts: Accounts = app.state.accounts
    accounts.writer.start()
    tasks = [asyncio.create_task(work) for work in (app.state.shelf.watch(), accounts.open())]
    yield
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.to_thread(accounts.close)


def _document_bodies(app: FastAPI) -> None:
    """Add the schemas of the bodies that a dependency reads, which FastAPI cannot see by itself."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema["components"]["schemas"]
        for body in (ForecastRequest, ActualsRequest):
            described = body.model_json_schema(ref_template="#/components/schemas/{model}")
            components |= described.pop("$defs")
            components[body.__name__] = described
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
