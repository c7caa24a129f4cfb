"""The uvicorn server: on SIGTERM it ends readiness, then stops listening, then finishes requests in flight."""

import asyncio
import gc
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.connection import ConnectionLimits, limited_protocol
from service.settings import Settings


class Server(uvicorn.Server):
    """A uvicorn server that drains before it stops listening."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and exempt imported objects from garbage collection.

        They live as long as the process. A full collection over them blocks all threads for longer than a large
        request does.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End readiness now and stop listening after `drain_seconds`; on a second signal or Ctrl-C, stop now."""
        state = self.config.app.state  # type: ignore[union-attr]
        delay = state.settings.drain_seconds
        is_first, state.is_stopping = not state.is_stopping, True
        if sig == signal.SIGTERM and is_first and delay:
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(loop.call_later, delay, super().handle_exit, sig, frame)
        else:
            super().handle_exit(sig, frame)


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return the uvicorn configuration of the application."""
    limits = ConnectionLimits(
        head_seconds=settings.body_timeout_seconds,
        write_seconds=settings.write_timeout_seconds,
        max_connections=settings.max_connections,
        count=app.state.metrics.count_refused,
    )
    return uvicorn.Config(
        app,
        http=limited_protocol(limits),
        # the service has no WebSockets, and uvicorn would answer their handshake before any host or key check
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # a client could otherwise evade its rate limit by claiming another address with each request
        proxy_headers=False,
        timeout_graceful_shutdown=settings.stop_seconds,
    )
