"""Serve: `python -m service`, set up by `FORECASTER_*` variables."""

import argparse
import ctypes
import socket
import sys
from contextlib import suppress

from pydantic import ValidationError

from forecaster.database.keys import read_keys
from forecaster.database.schema import opened
from forecaster.domain import logs
from forecaster.domain.errors import ConfigError, ForecasterError
from service.app import create_app
from service.server import Server, configure
from service.settings import Settings

BAD_SETTINGS = 2
# of glibc's `mallopt`
_M_ARENA_MAX = -8


def main() -> int:
    """Run the service until it is told to stop."""
    try:
        settings = Settings()
    except ValidationError as error:
        for mistake in error.errors():
            name = "_".join(str(part) for part in mistake["loc"]).upper()
            sys.stderr.write(f"error: FORECASTER_{name}: {mistake['msg'].removeprefix('Value error, ')}\n")
        return BAD_SETTINGS
    refusal = None if settings.is_loopback else why_not_beyond_loopback(settings.database_url)
    if refusal:
        sys.stderr.write(f"error: FORECASTER_HOST: {refusal}\n")
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
        try:
            app = create_app(settings)
        except ForecasterError as error:
            name = "TRACES_ENDPOINT" if isinstance(error, ConfigError) and "traces" in str(error) else "DATABASE_URL"
            sys.stderr.write(f"error: FORECASTER_{name}: {error}\n")
            return BAD_SETTINGS
        host = f"[{settings.host}]" if family is socket.AF_INET6 else settings.host
        _share_memory()
        logs.set_up(settings.log_level, settings.log_format)
        sys.stderr.write(f"serving on http://{host}:{listener.getsockname()[1]} (the dashboard; docs at /docs)\n")
        # uvicorn raises Ctrl-C again after shutting down in order
        with suppress(KeyboardInterrupt):
            Server(configure(app, settings)).run(sockets=[listener])
    return 0


def _share_memory() -> None:
    """Let threads share what glibc keeps of freed memory, of which each would otherwise keep a part of its own."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def why_not_beyond_loopback(database_url: str) -> str | None:
    """Return why the service must not be reached from elsewhere, None if it has a key that is good."""
    try:
        with opened(database_url) as engine:
            has_key = any(key.revoked_at is None for key in read_keys(engine))
    except ForecasterError as error:
        return f"beyond loopback keys are needed, and they cannot be read: {error}"
    return None if has_key else "beyond loopback an API key is needed; make one with python -m pipelines.keys create"


def _parser() -> argparse.ArgumentParser:
    settings = "\n".join(
        f"  FORECASTER_{name.upper():<28} {field.description}" for name, field in Settings.model_fields.items()
    )
    return argparse.ArgumentParser(
        prog="forecaster serve",
        description="Serve forecasts of the registered models over HTTP; dashboard at /, API docs at /docs.",
        epilog=f"settings, as environment variables:\n{settings}\n\n"
        "examples:\n  forecaster serve\n  FORECASTER_PORT=9000 forecaster serve",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    _parser().parse_args()
    sys.exit(main())
