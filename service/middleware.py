"""The outermost layer: hosts, request ids, security headers, large answers in pieces, a count and a log line."""

import itertools
import logging
import re
import secrets
import time
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forecaster.domain.logs import CONTEXT
from service.exceptions import AnotherSite, RepeatedHeader, ServiceError, UnknownHost
from service.limits import LARGE_BYTES, Holding, Limits
from service.metrics import Metrics
from service.problems import problem, refuse

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,100}")
HEADERS = (
    # for what is no page; the pages have a policy of their own
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
# of two, one part of the service, or a proxy, could heed the first and another the last
_SINGLE = frozenset(
    {b"authorization", b"content-length", b"host", b"idempotency-key", b"inference-header-content-length", b"origin"}
    | {b"sec-fetch-site", b"transfer-encoding"}
)
_HOST = re.compile(rb"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+)\])(?::\d{0,5})?")
# as nginx logs a client that has gone
_CLIENT_GONE = 499
_READING = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_READING, "POST", "PUT", "PATCH", "DELETE")
_log = logging.getLogger("forecaster.service.access")


class RequestMiddleware:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], metrics: Metrics, limits: Limits) -> None:
        """Wrap `app`; `hosts` are the names that it answers for, any where there is none."""
        self._app = app
        self._limits = limits
        self._hosts = hosts
        self._metrics = metrics
        # of this process, then counted
        self._prefix, self._numbers = f"{secrets.token_hex(4)}-", itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        holding = scope.setdefault("state", {})["holding"] = Holding(self._limits)
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{self._prefix}{next(self._numbers):x}".encode()
        token = CONTEXT.set({"request_id": request_id.decode()})
        status, has_started, begin = 500, False, time.perf_counter()

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
                await refuse(refusal)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_GONE
        # whatever it is, it is in the log with its request, and its client is told so
        except Exception:
            _log.exception("%s failed", scope["method"])
            if not has_started:
                await problem(500, "an unexpected error; it is in the service's log")(scope, receive, send_with_headers)
        finally:
            holding.release()
            self._metrics.running.dec()
            self._tell(scope, status, time.perf_counter() - begin)
            CONTEXT.reset(token)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ServiceError | None:
        repeated = _repeated(scope["headers"]) if len(headers) < len(scope["headers"]) else None
        if repeated:
            return RepeatedHeader(f"{repeated}: it is there twice; send it once")
        host = headers.get(b"host", b"")
        name = _host_name(host)
        if name is None:
            return UnknownHost("Host: it is missing, or no name or address with a port")
        if self._hosts and name not in self._hosts:
            return UnknownHost("Host: this service does not answer for it; set FORECASTER_ALLOWED_HOSTS")
        # a page elsewhere could otherwise write here through the browser of somebody who may (CSRF)
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        # browsers say which it is; of old ones the origin tells, unless a proxy has changed the host
        is_elsewhere = origin is not None and origin.partition(b"://")[2] != host
        is_foreign = is_elsewhere if site is None else site in (b"cross-site", b"same-site")
        if scope["method"] not in _READING and is_foreign:
            return AnotherSite("Origin: pages of other sites may not send anything here")
        return None

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        # never the path itself: whoever asks would choose how many there are
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" and scope["method"] in _METHODS else "any"
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.latency.labels(route).observe(seconds)
        if _log.isEnabledFor(logging.INFO):
            client = scope.get("state", {}).get("client", "")
            extra = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6), "client": client}
            _log.info("%s %s %s in %.1f ms", method, route, status, 1000 * seconds, extra=extra)


def _add_headers(message: MutableMapping[str, Any], request_id: bytes) -> None:
    own = {name for name, _ in message["headers"]}
    more = [header for header in HEADERS if header[0] not in own]
    message["headers"] = [*message["headers"], *more, (b"x-request-id", request_id)]


async def _send_body(message: Message, send: Send) -> None:
    """Send a large body bit by bit, each once the client has read most of those before."""
    body, has_more = memoryview(message["body"]), message.get("more_body", False)
    for begin in range(0, len(body), LARGE_BYTES):
        end = begin + LARGE_BYTES
        more = has_more or end < len(body)
        await send({"type": message["type"], "body": bytes(body[begin:end]), "more_body": more})


def _repeated(headers: list[tuple[bytes, bytes]]) -> str | None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in _SINGLE and name in seen:
            return name.decode()
        seen.add(name)
    return None


@lru_cache(256)
def _host_name(header: bytes) -> str | None:
    """Return the name or address in a Host header, without its port; None where it is not of that form."""
    found = _HOST.fullmatch(header)
    return (found[1] or found[2]).decode().lower() if found else None
