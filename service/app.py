"""The application factory: `create_app(settings)`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from forecaster import __version__
from service import problems
from service.catalog import ModelStore
from service.dependencies import require_scope
from service.forecast_service import ForecastService
from service.hot_routes import HotRoute, HotRoutes
from service.housekeeping import run_housekeeping
from service.keyring import Keyring
from service.limits import Limits
from service.metrics import Metrics
from service.middleware import RequestMiddleware
from service.protocol import InferenceRequest
from service.requests import ActualsRequest, ForecastRequest
from service.routes import actuals, dashboard, forecasts, health, inference, models, operations, series, skill
from service.settings import Settings
from service.tracing import trace

DESCRIPTION = "Time-series forecasts from registered recurrent models, each with the model's measured skill."
_HOT_ROUTES = (HotRoute("POST", forecasts.router.prefix, "forecast", forecasts.create_forecast),)


class Service(FastAPI):
    """A FastAPI application behind an edge that every request passes first.

    FastAPI runs added middleware inside layers of its own, which cost as much as a small forecast's parsing.
    """

    edge: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            scope["app"] = self
            await self.edge(scope, receive, send)
        else:
            await self.route_by_fastapi(scope, receive, send)

    async def route_by_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by one of FastAPI's routes."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """Return the application; it loads its models at startup."""
    # FastAPI's documentation page loads scripts from another site; dashboard.page serves one that does not
    pages: dict[str, Any] = {"docs_url": None, "redoc_url": None, "swagger_ui_oauth2_redirect_url": None}
    app = Service(title="forecaster", version=__version__, description=DESCRIPTION, lifespan=_lifespan, **pages)
    metrics = Metrics()
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.model_store = ModelStore(settings, metrics)
    app.state.forecast_service = ForecastService(settings, metrics)
    app.state.keyring = Keyring(app.state.forecast_service.engine, settings.is_loopback, settings.keys_refresh_seconds)
    app.state.limits = Limits(settings.rate_limit, settings.max_concurrent, settings.max_bytes_in_flight)
    app.state.is_stopping = False
    # only FastAPI's own routes are traced
    hot_routes = HotRoutes(app.route_by_fastapi, () if settings.traces_endpoint else _HOT_ROUTES)
    app.edge = RequestMiddleware(hot_routes, settings.hosts, metrics, app.state.limits)
    problems.install(app)
    # the scope that each route requires; busy routes come first, because Starlette tries routes in order
    for scope, routers in {
        "forecast": (forecasts.router, models.router, series.router, skill.router, inference.router, dashboard.router),
        "actuals": (actuals.router,),
        "admin": (operations.router,),
    }.items():
        for router in routers:
            app.include_router(router, dependencies=[require_scope(scope)])
    for public_router in (health.router, inference.probes, dashboard.page):
        app.include_router(public_router)
    app.mount("/dashboard", dashboard.FILES)
    _document_bodies(app)
    app.state.stop_tracing = lambda: None
    if settings.traces_endpoint:
        trace(app, settings.traces_endpoint)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the background tasks: reload models and keys, write the ledger, do housekeeping."""
    forecast_service: ForecastService = app.state.forecast_service
    forecast_service.writer.start()

    async def run_database_tasks() -> None:
        await forecast_service.open()
        await asyncio.gather(
            app.state.keyring.watch(), run_housekeeping(forecast_service, app.state.model_store, app.state.metrics)
        )

    tasks = [asyncio.create_task(task) for task in (app.state.model_store.watch(), run_database_tasks())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(forecast_service.close)
        await asyncio.to_thread(app.state.stop_tracing)


def _document_bodies(app: FastAPI) -> None:
    """Add to OpenAPI the schemas of bodies that routes read themselves, since FastAPI does not see those."""
    generate = app.openapi

    # public and slow to generate
    @cache
    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema["components"]["schemas"]
        for body in (ForecastRequest, ActualsRequest, InferenceRequest):
            body_schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            components |= body_schema.pop("$defs")
            components[body.__name__] = body_schema
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
