"""Start the HTTP service: `python -m service`, configured by `FORECASTER_*` variables."""

import argparse
import ctypes
import socket
import sys
from contextlib import suppress

from pydantic import ValidationError

from forecaster.database.keys import read_keys
from forecaster.database.schema import open_database
from forecaster.domain import logs
from forecaster.domain.errors import ConfigError, ForecasterError
from service.app import create_app
from service.server import Server, configure
from service.settings import Settings

BAD_SETTINGS = 2
# the parameter of glibc's `mallopt` that limits the number of arenas
_M_ARENA_MAX = -8


def main() -> int:
    """Run the service until a signal stops it; return the exit status."""
    try:
        settings = Settings()
    except ValidationError as error:
        for field_error in error.errors():
            name = "_".join(str(part) for part in field_error["loc"]).upper()
            sys.stderr.write(f"error: FORECASTER_{name}: {field_error['msg'].removeprefix('Value error, ')}\n")
        return BAD_SETTINGS
    problem = None if settings.is_loopback else check_remote_access(settings.database_url)
    if problem:
        sys.stderr.write(f"error: FORECASTER_HOST: {problem}\n")
        return BAD_SETTINGS
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            sys.stderr.write(
                f"error: FORECASTER_PORT: cannot listen on {settings.host}:{settings.port} ({error}); "
                "set another port\n"
            )
            return BAD_SETTINGS
        try:
            app = create_app(settings)
        except ForecasterError as error:
            name = "TRACES_ENDPOINT" if isinstance(error, ConfigError) and "traces" in str(error) else "DATABASE_URL"
            sys.stderr.write(f"error: FORECASTER_{name}: {error}\n")
            return BAD_SETTINGS
        host = f"[{settings.host}]" if family is socket.AF_INET6 else settings.host
        _limit_malloc_arenas()
        logs.set_up(settings.log_level, settings.log_format)
        sys.stderr.write(f"serving on http://{host}:{listener.getsockname()[1]} (the dashboard; docs at /docs)\n")
        # uvicorn raises KeyboardInterrupt again after a clean shutdown
        with suppress(KeyboardInterrupt):
            Server(configure(app, settings)).run(sockets=[listener])
    return 0


def _limit_malloc_arenas() -> None:
    """Limit glibc to two malloc arenas: by default each thread has its own, which keeps the memory freed in it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def check_remote_access(database_url: str) -> str | None:
    """Return why the service must not listen beyond loopback; None if it has a valid API key."""
    try:
        with open_database(database_url) as engine:
            has_key = any(key.revoked_at is None for key in read_keys(engine))
    except ForecasterError as error:
        return f"listening beyond loopback requires an API key, and the keys cannot be read: {error}"
    if has_key:
        return None
    return "listening beyond loopback requires an API key; create one with python -m pipelines.keys create"


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
