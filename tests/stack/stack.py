"""The stack on this machine without containers: every service of docker-compose.yml, as it says there."""

import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType

from tests.stack import postgres
from tests.stack.compose import ComposeError, Service
from tests.stack.paths import Places
from tests.stack.supervisor import Launch, Supervisor

# of each image of the project; a test holds the Dockerfile to it
ENTRYPOINT = "/app/deploy/entrypoint.sh"
_POSTGRES_DATA = "/var/lib/postgresql/data"
_POSTGRES_SCRIPTS = "/docker-entrypoint-initdb.d"


class StackError(Exception):
    """A service does not come up."""


class Stack:
    """Services that are started in order, kept running, and stopped in the other order."""

    def __init__(self, services: Mapping[str, Service], places: Places, left_out: Collection[str] = ()) -> None:
        """Run `services`, each after those that it needs, in `places`; those that are left out are not started."""
        self._services = services
        self._places = places
        self._left_out = left_out
        self._changed = threading.Condition()
        self.supervisors: dict[str, Supervisor] = {}

    def __enter__(self) -> "Stack":
        """Return the stack; nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop whatever was started; at once, where somebody cannot wait for that."""
        try:
            self.down()
        except KeyboardInterrupt:
            self.kill()
            raise

    def url(self, name: str) -> str:
        """Return where a service that publishes a port is reached."""
        return self.address(name, self._services[name].ports[0])

    def address(self, name: str, port: int) -> str:
        """Return where a service is reached by the others."""
        return f"http://{self._places.addresses[name]}:{port}"

    def up(self, *names: str, timeout_seconds: float = 180) -> None:
        """Start services, all where none is named, after those that they need; return once they are up.

        Raises:
            StackError: one has ended, or is not up in time; with the end of what it said.
            ComposeError: one cannot be run here.
        """
        deadline = time.monotonic() + timeout_seconds
        for service in self._wanted(names or [name for name in self._services if name not in self._left_out]):
            if service.name in self.supervisors:
                continue
            for other, condition in service.needs.items():
                self._wait_for(self.supervisors[other], condition, deadline)
            supervisor = Supervisor(service, self._launch(service), self._changed)
            self.supervisors[service.name] = supervisor
            supervisor.start()
        for supervisor in list(self.supervisors.values()):
            self._wait_for(supervisor, _up(supervisor.service), deadline)

    def run(self, name: str, *command: str, timeout_seconds: float = 600) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end beside the others, with all that a service is given: `docker compose run --rm`."""
        launch = self._launch(self._services[name], command)
        return subprocess.run(
            launch.command, check=False, capture_output=True, text=True, timeout=timeout_seconds, **launch.arguments()
        )

    def call(self, name: str, *command: str) -> int:
        """Run a command as `run` does, for however long, with this process' input and output; return its status."""
        launch = self._launch(self._services[name], command)
        return subprocess.run(launch.command, check=False, **(launch.arguments() | {"stdin": None})).returncode

    def wait(self, name: str, condition: str, timeout_seconds: float) -> None:
        """Wait until a service is `service_healthy`, or whatever else `depends_on` knows.

        Raises:
            StackError: it is not, in that time.
        """
        self._wait_for(self.supervisors[name], condition, time.monotonic() + timeout_seconds)

    def down(self) -> None:
        """Stop all services, those first that nothing needs any more."""
        for name in reversed(list(self.supervisors)):
            self.supervisors[name].stop()
        self.supervisors.clear()

    def kill(self) -> None:
        """End all services now, in no order."""
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
            while not supervisor.is_met(condition):
                if supervisor.is_over:
                    raise StackError(
                        f"{name} has ended with {supervisor.exit_status}\n{self._tail(supervisor.service)}"
                    )
                if time.monotonic() > deadline:
                    raise StackError(f"{name} is {supervisor.state}, too long now\n{self._tail(supervisor.service)}")
                self._changed.wait(0.2)

    def _tail(self, service: Service) -> str:
        log = self._places.log(service)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"{log}:", *lines[-20:]])

    def _launch(self, service: Service, command: tuple[str, ...] | None = None) -> Launch:
        places = self._places
        is_postgres = service.image.startswith("postgres:")
        if not is_postgres and service.target is None:
            raise ComposeError(f"{service.name}: nothing here stands for the image {service.image}")
        account = postgres.account() if is_postgres else None
        places.make(service, account)
        environment = places.environment(service)
        given = [places.translated(word, service) for word in command or service.command]
        words = [places.translated(ENTRYPOINT, service), *given]
        if is_postgres:
            if postgres.PROGRAMS is None:
                raise ComposeError(f"{service.name}: Postgres is not installed here (apt install postgresql)")
            data = places.volume(service.volumes[_POSTGRES_DATA])
            try:
                postgres.prepare(data, service.files[_POSTGRES_SCRIPTS], environment, places.log(service))
            except subprocess.CalledProcessError as error:
                raise StackError(f"{service.name} cannot be prepared\n{self._tail(service)}") from error
            words = given if command else postgres.command(postgres.PROGRAMS, data, places.addresses[service.name])
        check = service.check.command if service.check else ()
        return Launch(
            command=tuple(words),
            check=tuple(places.translated(word, service) for word in check),
            environment=environment,
            working_dir=places.working_dir(service),
            account=account,
            log=places.log(service),
        )


def _up(service: Service) -> str:
    """Return the condition that a service is up on."""
    if service.check is not None:
        return "service_healthy"
    return "service_completed_successfully" if service.restart == "no" else "service_started"
