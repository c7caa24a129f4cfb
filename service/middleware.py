"""The outermost middleware: host and origin checks, request ids, security headers, metrics and the access log."""

import itertools
import logging
import re
import secrets
import time
from collections.abc import MutableMapping, Sequence
from functools import cache, lru_cache
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forecaster.domain.logs import CONTEXT
from service.exceptions import CrossSiteRequest, DuplicateHeader, ServiceError, UnknownHost
from service.limits import LARGE_BYTES, Limits, RequestResources
from service.metrics import Metrics
from service.problems import UNEXPECTED, problem, problem_response

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,100}")
HEADERS = (
    # for all responses except the pages, which have their own policy
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_NAMES = frozenset(name for name, _ in HEADERS)
# headers that must not be repeated: a proxy could use the first, and the service the last
_UNIQUE_HEADERS = frozenset(
    {b"authorization", b"content-length", b"host", b"idempotency-key", b"inference-header-content-length", b"origin"}
    | {b"sec-fetch-site", b"transfer-encoding"}
)
_HOST = re.compile(rb"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+)\])(?::\d{0,5})?")
# the status that nginx logs for a client that closed the connection
_CLIENT_CLOSED_REQUEST = 499
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE")
_log = logging.getLogger("forecaster.service.access")


class RequestMiddleware:
    """ASGI middleware around every request; see the module's docstring."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], metrics: Metrics, limits: Limits) -> None:
        """Wrap `app`; `hosts` are the accepted host names, and an empty set accepts any."""
        self._app = app
        self._limits = limits
        self._hosts = hosts
        self._metrics = metrics
        # request ids: a random prefix for the process, and a counter
        self._prefix, self._numbers = f"{secrets.token_hex(4)}-", itertools.count(1)
        # finding a metric by its labels takes longer than counting
        self._count = cache(lambda *labels: metrics.requests.labels(*labels).inc)
        self._observe = cache(lambda route: metrics.latency.labels(route).observe)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        resources = scope.setdefault("state", {})["resources"] = RequestResources(self._limits)
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{self._prefix}{next(self._numbers):x}".encode()
        token = CONTEXT.set({"request_id": request_id.decode()})
        status, has_started, start = 500, False, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                status, has_started = message["status"], True
                _add_headers(message, request_id)
            elif len(message.get("body", b"")) > LARGE_BYTES:
                await _send_body(message, send)
                return
            await send(message)

        self._metrics.running.inc()
        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                await problem_response(refusal)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_CLOSED_REQUEST
        # the client gets a problem without details, and the log has the traceback under the request's id
        except Exception:
            _log.exception("%s request failed", scope["method"])
            if not has_started:
                await problem(500, UNEXPECTED)(scope, receive, send_with_headers)
        finally:
            resources.release()
            self._metrics.running.dec()
            self._record(scope, status, time.perf_counter() - start)
            CONTEXT.reset(token)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ServiceError | None:
        duplicate = _duplicate(scope["headers"]) if len(headers) < len(scope["headers"]) else None
        if duplicate:
            return DuplicateHeader(f"{duplicate}: the header is repeated; send it once")
        host = headers.get(b"host", b"")
        name = _host_name(host)
        if name is None:
            return UnknownHost("Host: the header is missing, or is not a name or address with an optional port")
        if self._hosts and name not in self._hosts:
            return UnknownHost("Host: this name is not allowed; add it to FORECASTER_ALLOWED_HOSTS")
        # prevent cross-site request forgery
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        # browsers without Sec-Fetch-Site: compare Origin with Host, which a proxy may have changed
        is_other_origin = origin is not None and origin.partition(b"://")[2] != host
        is_cross_site = is_other_origin if site is None else site in (b"cross-site", b"same-site")
        if scope["method"] not in _SAFE_METHODS and is_cross_site:
            return CrossSiteRequest("Origin: cross-site requests are refused")
        return None

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # the route and not the path: clients choose paths, and each label value is a new time series
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" and scope["method"] in _METHODS else "any"
        self._count(method, route, status)()
        self._observe(route)(seconds)
        if _log.isEnabledFor(logging.INFO):
            client = scope.get("state", {}).get("client", "")
            extra = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6), "client": client}
            _log.info("%s %s %s in %.1f ms", method, route, status, 1000 * seconds, extra=extra)


def _add_headers(message: MutableMapping[str, Any], request_id: bytes) -> None:
    given: list[tuple[bytes, bytes]] = message["headers"]
    missing: Sequence[tuple[bytes, bytes]] = HEADERS
    # only the pages have headers of these names
    if not _NAMES.isdisjoint(name for name, _ in given):
        names = {name for name, _ in given}
        missing = tuple(header for header in HEADERS if header[0] not in names)
    message["headers"] = [*given, *missing, (b"x-request-id", request_id)]


async def _send_body(message: Message, send: Send) -> None:
    """Send a large body in chunks, each after the client has read most of the chunks before it."""
    body, has_more = memoryview(message["body"]), message.get("more_body", False)
    for start in range(0, len(body), LARGE_BYTES):
        end = start + LARGE_BYTES
        more = has_more or end < len(body)
        await send({"type": message["type"], "body": bytes(body[start:end]), "more_body": more})


def _duplicate(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return the name of a repeated header that must be unique, None if there is none."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in _UNIQUE_HEADERS and name in seen:
            return name.decode()
        seen.add(name)
    return None


@lru_cache(256)
def _host_name(header: bytes) -> str | None:
    """Return the lower-case name or address in a Host header, without its port; None if the header is malformed."""
    match = _HOST.fullmatch(header)
    return (match[1] or match[2]).decode().lower() if match else None
