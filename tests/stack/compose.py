"""docker-compose.yml as data: the part of the Compose specification that the stack uses, everything else refused."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
# what a container engine looks after, and a process of this machine does not have
_OF_CONTAINERS = frozenset(
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
_READ = frozenset(
    {"command", "depends_on", "environment", "healthcheck", "image", "ports", "profiles", "restart", "secrets"}
    | {"stop_grace_period", "stop_signal", "tmpfs", "volumes", "working_dir"}
)


class ComposeError(Exception):
    """The file asks for something that is not understood, or that cannot be done here."""


@dataclass(frozen=True)
class Check:
    """A health check; durations in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


@dataclass(frozen=True)
class Service:
    """A service of the file; paths on the left of a mount are the container's.

    `files` maps a container's path to a file or folder of this machine, `volumes` to a volume's name.
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
    check: Check | None
    needs: Mapping[str, str]
    restart: str
    stop_signal: str
    grace_seconds: float
    profiles: tuple[str, ...]


def read_compose(file: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services of a compose file by name, each after those that it needs.

    Args:
        file: the compose file; its relative paths begin at its folder.
        variables: what `${NAME:-default}` stands for.

    Raises:
        ComposeError: the file has something in it that is not known here.
    """
    raw = _filled(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    root = file.resolve().parent
    secrets = {name: root / one["file"] for name, one in raw.get("secrets", {}).items()}
    services = {name: _service(name, one, root, secrets) for name, one in raw["services"].items()}
    return _in_order(services)


def _service(name: str, raw: dict[str, Any], root: Path, secrets: Mapping[str, Path]) -> Service:
    unknown = raw.keys() - _READ - _OF_CONTAINERS
    if unknown:
        raise ComposeError(f"{name}: {sorted(unknown)} would be ignored here; teach deploy/compose.py what it means")
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
        raise ComposeError(f"{name}: volume '{text}': write a volume's name, a ./path or a /path, a colon and a path")
    return source, target.partition(":")[0]


def _is_path(source: str) -> bool:
    return source.startswith((".", "/"))


def _check(name: str, raw: dict[str, Any] | None) -> Check | None:
    if raw is None:
        return None
    kind, *command = raw["test"]
    if kind != "CMD":
        raise ComposeError(f"{name}: healthcheck.test begins with '{kind}'; write CMD and words")
    interval = seconds(raw.get("interval", "30s"))
    return Check(
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
        raise ComposeError(f"'{duration}' is no duration; write it as 1m30s")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def _words(command: str | list[str]) -> tuple[str, ...]:
    return tuple(shlex.split(command) if isinstance(command, str) else command)


def _filled(raw: Any, variables: Mapping[str, str]) -> Any:
    """Return the file with its variables filled in."""
    if isinstance(raw, dict):
        return {key: _filled(value, variables) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_filled(value, variables) for value in raw]
    return _VARIABLE.sub(lambda match: _value(match, variables), raw) if isinstance(raw, str) else raw


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["name"] is None:
        return "$"
    # as Compose has it: with :- an empty variable takes the default too
    value = variables.get(match["name"]) or match["default"]
    if value is None:
        raise ComposeError(f"the variable {match['name']} is not set, and has no default")
    return value


def _in_order(services: dict[str, Service]) -> dict[str, Service]:
    ordered: dict[str, Service] = {}
    while len(ordered) < len(services):
        ready = [name for name, one in services.items() if name not in ordered and one.needs.keys() <= ordered.keys()]
        if not ready:
            raise ComposeError(
                f"{sorted(services.keys() - ordered.keys())} wait for each other, or for what is not there"
            )
        ordered |= {name: services[name] for name in ready}
    return ordered
