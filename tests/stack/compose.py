"""Read docker-compose.yml: the keys of the Compose specification that the stack uses. Other keys are errors."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
# A container engine handles these; a plain process has no counterpart.
_IGNORED_KEYS = frozenset(
    {
        "build",
        "cap_drop",
        "hostname",
        "init",
        "logging",
        "mem_limit",
        "networks",
        "pids_limit",
        "read_only",
        "security_opt",
    }
    | {"shm_size", "user", "deploy"}
)
_KNOWN_KEYS = frozenset(
    {"command", "depends_on", "environment", "healthcheck", "image", "ports", "profiles", "restart", "secrets"}
    | {"stop_grace_period", "stop_signal", "tmpfs", "volumes", "working_dir"}
)


class ComposeError(Exception):
    """The file has a key or value that is not supported, or that cannot be run on this machine."""


@dataclass(frozen=True)
class HealthCheck:
    """A health check; durations in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


@dataclass(frozen=True)
class Service:
    """A service of the file.

    Attributes:
        files: the file or folder of this machine that is mounted at each path in the container.
        volumes: the name of the volume that is mounted at each path in the container.
        secrets: the file of this machine that holds the secret at each path in the container.
        scratch: paths in the container that are empty at each start.
        ports: the container's published ports.
        needs: the condition of `depends_on` for each service that must come first.
        grace_seconds: how long a process may take to end after `stop_signal`.
    """

    name: str
    image: str
    target: str | None
    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: str | None
    files: Mapping[str, Path]
    volumes: Mapping[str, str]
    scratch: tuple[str, ...]
    secrets: Mapping[str, Path]
    ports: tuple[int, ...]
    check: HealthCheck | None
    needs: Mapping[str, str]
    restart: str
    stop_signal: str
    grace_seconds: float
    profiles: tuple[str, ...]


def read_compose(file: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services of a Compose file by name, each after the services that it needs.

    Args:
        file: the Compose file; relative paths start at its folder.
        variables: the values of `${NAME:-default}`.

    Raises:
        ComposeError: the file has a key or value that is not supported here.
    """
    raw = _substituted(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    root = file.resolve().parent
    secrets = {name: root / one["file"] for name, one in raw.get("secrets", {}).items()}
    services = {name: _service(name, one, root, secrets) for name, one in raw["services"].items()}
    return _sorted_by_dependency(services)


def _service(name: str, raw: dict[str, Any], root: Path, secrets: Mapping[str, Path]) -> Service:
    unknown = raw.keys() - _KNOWN_KEYS - _IGNORED_KEYS
    if unknown:
        raise ComposeError(f"{name}: {sorted(unknown)} would be ignored here; add support to tests/stack/compose.py")
    mounts = [_mount(name, text) for text in raw.get("volumes", [])]
    return Service(
        name=name,
        image=raw["image"],
        target=raw["build"]["target"] if "build" in raw else None,
        command=_words(raw.get("command", [])),
        environment={key: str(value) for key, value in raw.get("environment", {}).items()},
        working_dir=raw.get("working_dir"),
        files={target: root / source for source, target in mounts if _is_path(source)},
        volumes={target: source for source, target in mounts if not _is_path(source)},
        scratch=tuple(text.partition(":")[0] for text in raw.get("tmpfs", [])),
        secrets={f"/run/secrets/{secret}": secrets[secret] for secret in raw.get("secrets", [])},
        ports=tuple(int(text.rpartition(":")[2]) for text in raw.get("ports", [])),
        check=_check(name, raw.get("healthcheck")),
        needs={other: need["condition"] for other, need in raw.get("depends_on", {}).items()},
        restart=raw.get("restart", "no"),
        stop_signal=raw.get("stop_signal", "SIGTERM"),
        grace_seconds=seconds(raw.get("stop_grace_period", "10s")),
        profiles=tuple(raw.get("profiles", [])),
    )


def _mount(name: str, text: str) -> tuple[str, str]:
    source, _, target = text.partition(":")
    if source.startswith("~") or not target:
        raise ComposeError(f"{name}: volume '{text}': write NAME:PATH, ./FOLDER:PATH or /FOLDER:PATH")
    return source, target.partition(":")[0]


def _is_path(source: str) -> bool:
    return source.startswith((".", "/"))


def _check(name: str, raw: dict[str, Any] | None) -> HealthCheck | None:
    if raw is None:
        return None
    kind, *command = raw["test"]
    if kind != "CMD":
        raise ComposeError(f"{name}: healthcheck.test starts with '{kind}'; write [CMD, program, argument, …]")
    interval = seconds(raw.get("interval", "30s"))
    return HealthCheck(
        command=tuple(command),
        interval=interval,
        timeout=seconds(raw.get("timeout", "30s")),
        retries=raw.get("retries", 3),
        start_period=seconds(raw.get("start_period", "0s")),
        start_interval=seconds(raw.get("start_interval", "5s")),
    )


def seconds(duration: str) -> float:
    """Return the seconds of a duration such as `1m30s`."""
    parts = re.findall(r"(\d+)(h|ms|m|s)", duration)
    if "".join(number + unit for number, unit in parts) != duration:
        raise ComposeError(f"'{duration}' is not a duration; write it like 1m30s")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def _words(command: str | list[str]) -> tuple[str, ...]:
    return tuple(shlex.split(command) if isinstance(command, str) else command)


def _substituted(raw: Any, variables: Mapping[str, str]) -> Any:
    """Return the parsed file with its variables substituted."""
    if isinstance(raw, dict):
        return {key: _substituted(value, variables) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_substituted(value, variables) for value in raw]
    return _VARIABLE.sub(lambda match: _value(match, variables), raw) if isinstance(raw, str) else raw


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["name"] is None:
        return "$"
    # Like Compose: with :- an empty variable has the default too.
    value = variables.get(match["name"]) or match["default"]
    if value is None:
        raise ComposeError(f"the variable {match['name']} is not set and has no default")
    return value


def _sorted_by_dependency(services: dict[str, Service]) -> dict[str, Service]:
    ordered: dict[str, Service] = {}
    while len(ordered) < len(services):
        ready = [name for name, one in services.items() if name not in ordered and one.needs.keys() <= ordered.keys()]
        if not ready:
            raise ComposeError(
                f"{sorted(services.keys() - ordered.keys())} need each other, or a service that does not exist"
            )
        ordered |= {name: services[name] for name in ready}
    return ordered
