"""The server: on SIGTERM readiness ends first, then listening, then requests in flight; slow senders are let go."""

import asyncio
import signal
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings


class Server(uvicorn.Server):
    """Stops in order."""

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
    return uvicorn.Config(
        app,
        http=_protocol(settings.body_timeout_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        # whoever asks could otherwise say that he is somebody else, each time another
        proxy_headers=False,
        timeout_graceful_shutdown=settings.stop_seconds,
    )


def _protocol(head_seconds: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, which by itself waits for ever for a connection's first request."""

    class Impatient(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def on_message_begin(self) -> None:
            # of the connection's next request, too
            self._wait_for_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            # from here on the body has a limit of its own
            self._stop_waiting()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            self._stop_waiting()
            self._deadline = self.loop.call_later(head_seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._deadline:
                self._deadline.cancel()

    return Impatient
