"""The application: `create_app(settings)` puts routes, error handlers and the model store together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI

from forecaster import __version__
from service import problems
from service.catalog import ModelStore
from service.dependencies import allow
from service.forecast_service import ForecastService
from service.housekeeping import do_housekeeping
from service.keyring import Keyring
from service.limits import Limits
from service.metrics import Metrics
from service.middleware import RequestMiddleware
from service.protocol import InferenceRequest
from service.routes import actuals, dashboard, forecasts, health, inference, models, operations, series, skill
from service.schemas import ActualsRequest, ForecastRequest
from service.settings import Settings
from service.tracing import trace

DESCRIPTION = "Forecasts of registered recurrent models, each with the skill that its recipe has shown."


def create_app(settings: Settings) -> FastAPI:
    """Return the service; its models are loaded when it starts."""
    # its page for the API would load scripts from another host; dashboard.page has one that does not
    pages: dict[str, Any] = {"docs_url": None, "redoc_url": None, "swagger_ui_oauth2_redirect_url": None}
    app = FastAPI(title="forecaster", version=__version__, description=DESCRIPTION, lifespan=_work, **pages)
    metrics = Metrics()
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.model_store = ModelStore(settings, metrics)
    app.state.forecast_service = ForecastService(settings, metrics)
    app.state.keyring = Keyring(app.state.forecast_service.engine, settings.is_loopback, settings.keys_refresh_seconds)
    app.state.limits = Limits(settings.rate_limit, settings.max_concurrent, settings.max_bytes_in_flight)
    app.state.is_stopping = False
    app.add_middleware(RequestMiddleware, hosts=settings.hosts, metrics=metrics, limits=app.state.limits)
    problems.install(app)
    # who may ask for what, in one place; what is asked most comes first, for routes are tried in their order
    for scope, routers in {
        "forecast": (forecasts.router, models.router, series.router, skill.router, inference.router, dashboard.router),
        "actuals": (actuals.router,),
        "admin": (operations.router,),
    }.items():
        for router in routers:
            app.include_router(router, dependencies=[allow(scope)])
    for open_to_all in (health.router, inference.probes, dashboard.page):
        app.include_router(open_to_all)
    app.mount("/dashboard", dashboard.FILES)
    _document_bodies(app)
    app.state.stop_tracing = lambda: None
    if settings.traces_endpoint:
        trace(app, settings.traces_endpoint)
    return app


@asynccontextmanager
async def _work(app: FastAPI) -> AsyncIterator[None]:
    """Watch the models and the keys, write the ledger and look at what came, as long as the service runs."""
    forecast_service: ForecastService = app.state.forecast_service
    forecast_service.writer.start()

    async def with_database() -> None:
        await forecast_service.open()
        await asyncio.gather(
            app.state.keyring.watch(), do_housekeeping(forecast_service, app.state.model_store, app.state.metrics)
        )

    tasks = [asyncio.create_task(work) for work in (app.state.model_store.watch(), with_database())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(forecast_service.close)
        await asyncio.to_thread(app.state.stop_tracing)


def _document_bodies(app: FastAPI) -> None:
    """Add the schemas of the bodies that a dependency reads, which FastAPI cannot see by itself."""
    generate = app.openapi

    # anybody may ask for it, and making it takes long
    @cache
    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema["components"]["schemas"]
        for body in (ForecastRequest, ActualsRequest, InferenceRequest):
            described = body.model_json_schema(ref_template="#/components/schemas/{model}")
            components |= described.pop("$defs")
            components[body.__name__] = described
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
