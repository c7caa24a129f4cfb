"""Routes that are answered ahead of FastAPI's router, whose layers cost more than the forecast of one series.

The same function is also a route of FastAPI, which documents it.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from forecaster.domain.errors import ForecasterError
from service.dependencies import authorize
from service.problems import domain_error_response


@dataclass(frozen=True)
class HotRoute:
    """A route whose endpoint reads the request itself.

    Args:
        method: the HTTP method.
        path: the path, without parameters. The metrics and the log name the route by it.
        scope: the scope that the request's API key needs.
        endpoint: answers a request.
    """

    method: str
    path: str
    scope: str
    endpoint: Callable[[Request], Awaitable[Response]]


class HotRoutes:
    """ASGI middleware that answers some routes and leaves all other requests to the application."""

    def __init__(self, app: ASGIApp, routes: Iterable[HotRoute]) -> None:
        """Wrap `app`."""
        self._app = app
        self._routes = {(route.method, route.path): route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            await authorize(request, route.scope)
            response = await route.endpoint(request)
        except ForecasterError as error:
            response = domain_error_response(request, error)
        await response(scope, receive, send)
