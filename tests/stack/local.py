"""Run docker-compose.yml on this machine without Docker: `python -m tests.stack.local up`, or `make stack`."""

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from filelock import FileLock, Timeout

from deploy.make_secrets import make_secrets
from tests.stack.compose import ComposeError, Service, read_compose
from tests.stack.paths import Places
from tests.stack.stack import Stack, StackError

ROOT = Path(__file__).parents[2]
STATE = ROOT / "mlruns" / "stack"
_SECRETS = "FORECASTER_SECRETS"


def plan(
    state: Path, variables: Mapping[str, str], images: Mapping[str, Path] | None = None
) -> tuple[Stack, list[str]]:
    """Return the stack as it can run here, and what of it cannot, in words.

    Args:
        state: the folder of volumes, secrets and logs; made if missing.
        variables: those of the compose file; secrets are made in `state`, unless `FORECASTER_SECRETS` says where.
        images: as `Places` has them.

    Raises:
        ComposeError: the compose file is not understood.
    """
    state.mkdir(parents=True, exist_ok=True)
    # Postgres may run as another account than this
    state.chmod(0o711)
    if not variables.get(_SECRETS):
        variables = {**variables, _SECRETS: str(state.resolve() / "secrets")}
        make_secrets(state / "secrets")
    services = read_compose(ROOT / "docker-compose.yml", variables)
    reasons = {name: reason for name, service in services.items() if (reason := _why_not(service))}
    stack = Stack(services, Places(ROOT, state, services, images or {}), left_out=reasons)
    return stack, [f"{name} is left out: {reason}" for name, reason in reasons.items()]


def _why_not(service: Service) -> str | None:
    if service.profiles:
        return f"profile {', '.join(service.profiles)} is for containers"
    module = service.command[2] if service.command[:2] == ("python", "-m") else None
    if module and importlib.util.find_spec(module) is None:
        return f"there is no {module}"
    return None


def up(state: Path, names: list[str]) -> int:
    """Bring the stack up, or some of its services, say where it is, and stop it at Ctrl-C or SIGTERM."""
    stack, left_out = plan(state, os.environ)
    for line in left_out:
        sys.stdout.write(f"{line}\n")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with stack:
            stack.up(*names)
            sys.stdout.write(_places_of_interest(stack, state))
            sys.stdout.flush()
            signal.pause()
    except KeyboardInterrupt:
        sys.stdout.write("stopped\n")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _places_of_interest(stack: Stack, state: Path) -> str:
    places = {
        "service": f"the service   {stack.url('service')}\n",
        "mlflow": f"MLflow        {stack.url('mlflow')} (admin, {state / 'secrets' / 'mlflow_password'})\n",
    }
    return "".join(line for name, line in places.items() if name in stack.supervisors) + (
        f"logs          {state / 'logs'}\n"
        "a key         python -m tests.stack.local run service \\\n"
        "                python -m pipelines.keys create --name me --scope forecast\n"
        "Ctrl-C stops all of it, each in its time; a second one at once\n"
    )


def run(state: Path, name: str, command: list[str]) -> int:
    """Run a command with all that a service is given, beside the stack that is up."""
    stack, _ = plan(state, os.environ)
    return stack.call(name, *command)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack.local", description=__doc__)
    parser.add_argument("--state", type=Path, default=STATE, help="folder of volumes, secrets, logs (mlruns/stack)")
    commands = parser.add_subparsers(required=True, dest="what", metavar="COMMAND")
    starting = commands.add_parser("up", help="bring it up; Ctrl-C stops it")
    starting.add_argument("services", nargs="*", help="only these, and those that they need")
    running = commands.add_parser("run", help="run a command with all that a service is given")
    running.add_argument("service", help="which service")
    running.add_argument("command", nargs=argparse.REMAINDER, help="python -m …")
    arguments = parser.parse_args()
    try:
        if arguments.what == "run":
            return run(arguments.state, arguments.service, arguments.command)
        arguments.state.mkdir(parents=True, exist_ok=True)
        with FileLock(arguments.state / "lock", blocking=False):
            return up(arguments.state, arguments.services)
    except Timeout:
        sys.stderr.write(f"error: {arguments.state}: a stack is up there already; stop it, or give another --state\n")
    except (ComposeError, StackError) as error:
        sys.stderr.write(f"error: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
