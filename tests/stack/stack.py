"""Run the services of docker-compose.yml on this machine without containers."""

import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType

from tests.stack import postgres
from tests.stack.compose import ComposeError, Service
from tests.stack.paths import StackPaths
from tests.stack.supervisor import ProcessSpec, Supervisor

# The entrypoint of the project's images; a test compares it with the Dockerfile.
ENTRYPOINT = "/app/deploy/entrypoint.sh"
_POSTGRES_DATA = "/var/lib/postgresql/data"
_POSTGRES_SCRIPTS = "/docker-entrypoint-initdb.d"


class StackError(Exception):
    """A service does not start."""


class Stack:
    """Starts services in the order of their dependencies, supervises them, and stops them in the reverse order."""

    def __init__(self, services: Mapping[str, Service], paths: StackPaths, left_out: Collection[str] = ()) -> None:
        """Prepare to run `services` in `paths`; those in `left_out` are started only by name."""
        self._services = services
        self._paths = paths
        self._left_out = left_out
        self._changed = threading.Condition()
        self.supervisors: dict[str, Supervisor] = {}

    def __enter__(self) -> "Stack":
        """Return the stack; no service is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the services; kill them at a second Ctrl-C."""
        try:
            self.down()
        except KeyboardInterrupt:
            self.kill()
            raise

    def url(self, name: str) -> str:
        """Return the URL of the port that a service publishes."""
        return self.address(name, self._services[name].ports[0])

    def address(self, name: str, port: int) -> str:
        """Return the URL of a service's port."""
        return f"http://{self._paths.addresses[name]}:{port}"

    def up(self, *names: str, timeout_seconds: float = 180) -> None:
        """Start services, by default all, and the services that they need; return once all are up.

        Raises:
            StackError: a service has ended, or is not up in time; the message has the end of its log.
            ComposeError: a service cannot be run on this machine.
        """
        deadline = time.monotonic() + timeout_seconds
        for service in self._wanted(names or [name for name in self._services if name not in self._left_out]):
            if service.name in self.supervisors:
                continue
            for other, condition in service.needs.items():
                self._wait_for(self.supervisors[other], condition, deadline)
            supervisor = Supervisor(service, self._spec(service), self._changed)
            self.supervisors[service.name] = supervisor
            supervisor.start()
        for supervisor in list(self.supervisors.values()):
            self._wait_for(supervisor, _condition_when_up(supervisor.service), deadline)

    def run(self, name: str, *command: str, timeout_seconds: float = 600) -> "subprocess.CompletedProcess[str]":
        """Run a command with the environment and mounts of a service, like `docker compose run --rm`."""
        spec = self._spec(self._services[name], command)
        return subprocess.run(
            spec.command, check=False, capture_output=True, text=True, timeout=timeout_seconds, **spec.arguments()
        )

    def call(self, name: str, *command: str) -> int:
        """Run a command like `run`, without a timeout, with this process' input and output; return its exit status."""
        spec = self._spec(self._services[name], command)
        return subprocess.run(spec.command, check=False, **(spec.arguments() | {"stdin": None})).returncode

    def wait(self, name: str, condition: str, timeout_seconds: float) -> None:
        """Wait until a service meets a condition of `depends_on`, such as `service_healthy`.

        Raises:
            StackError: it does not in that time.
        """
        self._wait_for(self.supervisors[name], condition, time.monotonic() + timeout_seconds)

    def down(self) -> None:
        """Stop all services, each before the services that it needs."""
        for name in reversed(list(self.supervisors)):
            self.supervisors[name].stop()
        self.supervisors.clear()

    def kill(self) -> None:
        """Kill all services now."""
        for supervisor in self.supervisors.values():
            supervisor.kill()

    def _wanted(self, names: Iterable[str]) -> list[Service]:
        wanted = set(names)
        for name in reversed(list(self._services)):
            if name in wanted:
                wanted |= self._services[name].needs.keys()
        return [service for name, service in self._services.items() if name in wanted]

    def _wait_for(self, supervisor: Supervisor, condition: str, deadline: float) -> None:
        name = supervisor.service.name
        with self._changed:
            while not supervisor.meets(condition):
                if supervisor.is_over:
                    raise StackError(
                        f"{name} has ended with {supervisor.exit_status}\n{self._tail(supervisor.service)}"
                    )
                if time.monotonic() > deadline:
                    raise StackError(f"{name} is still {supervisor.state}\n{self._tail(supervisor.service)}")
                self._changed.wait(0.2)

    def _tail(self, service: Service) -> str:
        log = self._paths.log(service)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"{log}:", *lines[-20:]])

    def _spec(self, service: Service, command: tuple[str, ...] | None = None) -> ProcessSpec:
        paths = self._paths
        is_postgres = service.image.startswith("postgres:")
        if not is_postgres and service.target is None:
            raise ComposeError(f"{service.name}: the image {service.image} cannot be run without containers")
        account = postgres.account() if is_postgres else None
        paths.prepare(service, account)
        environment = paths.environment(service)
        arguments = [paths.translated(word, service) for word in command or service.command]
        words = [paths.translated(ENTRYPOINT, service), *arguments]
        if is_postgres:
            if postgres.PROGRAMS is None:
                raise ComposeError(f"{service.name}: Postgres is not installed here (apt install postgresql)")
            data = paths.volume(service.volumes[_POSTGRES_DATA])
            try:
                postgres.prepare(data, service.files[_POSTGRES_SCRIPTS], environment, paths.log(service))
            except subprocess.CalledProcessError as error:
                raise StackError(f"{service.name} cannot be initialised\n{self._tail(service)}") from error
            words = arguments if command else postgres.command(postgres.PROGRAMS, data, paths.addresses[service.name])
        check = service.check.command if service.check else ()
        return ProcessSpec(
            command=tuple(words),
            check=tuple(paths.translated(word, service) for word in check),
            environment=environment,
            working_dir=paths.working_dir(service),
            account=account,
            log=paths.log(service),
        )


def _condition_when_up(service: Service) -> str:
    """Return the condition that a service meets when it is up."""
    if service.check is not None:
        return "service_healthy"
    return "service_completed_successfully" if service.restart == "no" else "service_started"
