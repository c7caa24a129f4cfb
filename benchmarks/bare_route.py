"""Serve the service and a minimal FastAPI route from one process; `benchmarks.serving` runs it as a subprocess."""

import sys

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from forecaster.domain import logs
from service.app import create_app
from service.server import Server, configure
from service.settings import Settings


def main() -> None:
    """Serve both on `FORECASTER_PORT`, the minimal route at /bare."""
    settings = Settings()
    app, bare = create_app(settings), FastAPI()

    @bare.post("/bare")
    async def answer() -> dict[str, str]:
        return {"status": "ok"}

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        is_bare = scope["type"] == "http" and scope["path"] == "/bare"
        await (bare if is_bare else app)(scope, receive, send)

    logs.set_up("warning", "text")
    config = configure(app, settings)
    config.app = both
    config.port = settings.port
    # where the server looks for the application's state
    both.state = app.state  # type: ignore[attr-defined]
    sys.stderr.write(f"serving on http://127.0.0.1:{settings.port}\n")
    Server(config).run()


if __name__ == "__main__":
    main()
