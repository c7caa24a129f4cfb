"""The server: on SIGTERM readiness ends first, then listening, then requests in flight."""

import asyncio
import gc
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.connection import Bounds, bounded
from service.settings import Settings


class Server(uvicorn.Server):
    """Stops in order."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and keep the garbage collector from what was imported, which stays as long as the process.

        Each full collection would go over it, which holds all other threads up for longer than a large request does.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End readiness at once, and listening after `drain_seconds`; a second signal, or Ctrl-C, does not wait."""
        state = self.config.app.state  # type: ignore[union-attr]
        patience = state.settings.drain_seconds
        is_first, state.is_stopping = not state.is_stopping, True
        if sig == signal.SIGTERM and is_first and patience:
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(loop.call_later, patience, super().handle_exit, sig, frame)
        else:
            super().handle_exit(sig, frame)


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration."""
    bounds = Bounds(
        head_seconds=settings.body_timeout_seconds,
        write_seconds=settings.write_timeout_seconds,
        most_connections=settings.max_connections,
        count=app.state.metrics.count_refused,
    )
    return uvicorn.Config(
        app,
        http=bounded(bounds),
        # nothing here speaks WebSocket, whose handshake would be answered before any host or key is looked at
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # clients could otherwise claim another address with each request
        proxy_headers=False,
        timeout_graceful_shutdown=settings.stop_seconds,
    )
