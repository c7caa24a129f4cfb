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
from tests.stack.paths import StackPaths
from tests.stack.stack import Stack, StackError

ROOT = Path(__file__).parents[2]
STATE = ROOT / "mlruns" / "stack"
_SECRETS = "FORECASTER_SECRETS"


def plan(
    state: Path, variables: Mapping[str, str], images: Mapping[str, Path] | None = None
) -> tuple[Stack, list[str]]:
    """Return the stack, and a line for each service that cannot run on this machine.

    Args:
        state: the folder of volumes, secrets and logs; created if missing.
        variables: of the Compose file; without `FORECASTER_SECRETS` the secrets are created in `state`.
        images: as in `StackPaths`.

    Raises:
        ComposeError: the Compose file is not supported.
    """
    state.mkdir(parents=True, exist_ok=True)
    # Postgres may run as another account.
    state.chmod(0o711)
    if not variables.get(_SECRETS):
        variables = {**variables, _SECRETS: str(state.resolve() / "secrets")}
        make_secrets(state / "secrets")
    services = read_compose(ROOT / "docker-compose.yml", variables)
    reasons = {name: reason for name, service in services.items() if (reason := _unsupported_reason(service))}
    stack = Stack(services, StackPaths(ROOT, state, services, images or {}), left_out=reasons)
    return stack, [f"{name} is left out: {reason}" for name, reason in reasons.items()]


def _unsupported_reason(service: Service) -> str | None:
    if service.profiles:
        return f"profile {', '.join(service.profiles)} needs containers"
    module = service.command[2] if service.command[:2] == ("python", "-m") else None
    if module and importlib.util.find_spec(module) is None:
        return f"the module {module} does not exist"
    return None


def up(state: Path, names: list[str]) -> int:
    """Start the stack, or some services of it, print its addresses, and stop it on Ctrl-C or SIGTERM."""
    stack, left_out = plan(state, os.environ)
    for line in left_out:
        sys.stdout.write(f"{line}\n")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with stack:
            stack.up(*names)
            sys.stdout.write(_summary(stack, state))
            sys.stdout.flush()
            signal.pause()
    except KeyboardInterrupt:
        sys.stdout.write("stopped\n")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _summary(stack: Stack, state: Path) -> str:
    addresses = {
        "service": f"the service   {stack.url('service')}\n",
        "mlflow": f"MLflow        {stack.url('mlflow')} (admin, {state / 'secrets' / 'mlflow_password'})\n",
    }
    return "".join(line for name, line in addresses.items() if name in stack.supervisors) + (
        f"logs          {state / 'logs'}\n"
        "a key         python -m tests.stack.local run service \\\n"
        "                python -m pipelines.keys create --name me --scope forecast\n"
        "Ctrl-C stops all services in order; a second Ctrl-C kills them\n"
    )


def run(state: Path, name: str, command: list[str]) -> int:
    """Run a command with the environment and mounts of a service, beside the running stack."""
    stack, _ = plan(state, os.environ)
    return stack.call(name, *command)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack.local", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=STATE, help="folder of volumes, secrets and logs (default: mlruns/stack)"
    )
    commands = parser.add_subparsers(required=True, dest="what", metavar="COMMAND")
    starting = commands.add_parser("up", help="start the stack; Ctrl-C stops it")
    starting.add_argument("services", nargs="*", help="only these services, and the services that they need")
    running = commands.add_parser("run", help="run a command with the environment and mounts of a service")
    running.add_argument("service", help="the service")
    running.add_argument("command", nargs=argparse.REMAINDER, help="python -m …")
    arguments = parser.parse_args()
    try:
        if arguments.what == "run":
            return run(arguments.state, arguments.service, arguments.command)
        arguments.state.mkdir(parents=True, exist_ok=True)
        with FileLock(arguments.state / "lock", blocking=False):
            return up(arguments.state, arguments.services)
    except Timeout:
        sys.stderr.write(f"error: {arguments.state}: a stack runs there already; stop it, or give another --state\n")
    except (ComposeError, StackError) as error:
        sys.stderr.write(f"error: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
