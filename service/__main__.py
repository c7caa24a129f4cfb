"""Serve: `python -m service`, set up by `FORECASTER_*` variables."""

import logging
import socket
import sys
from contextlib import suppress

import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings

BAD_SETTINGS = 2


def main() -> int:
    """Run the service until it is told to stop."""
    try:
        settings = Settings()
    except ValidationError as error:
        for mistake in error.errors():
            name = "_".join(str(part) for part in mistake["loc"]).upper()
            sys.stderr.write(f"error: FORECASTER_{name}: {mistake['msg'].removeprefix('Value error, ')}\n")
        return BAD_SETTINGS
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            sys.stderr.write(
                f"error: FORECASTER_PORT: {settings.host}:{settings.port} cannot be taken ({error}); set another\n"
            )
            return BAD_SETTINGS
        host = f"[{settings.host}]" if family is socket.AF_INET6 else settings.host
        level = settings.log_level.upper()
        logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(name)s: %(message)s")
        sys.stderr.write(f"serving on http://{host}:{listener.getsockname()[1]} (the dashboard; docs at /docs)\n")
        config = uvicorn.Config(create_app(settings), log_level=settings.log_level, access_log=False)
        # uvicorn raises Ctrl-C again after shutting down in order
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
