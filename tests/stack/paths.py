"""Map a container's paths, hosts and secrets to this machine."""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.stack.compose import ComposeError, Service
from tests.stack.postgres import PROGRAMS

APP = "/app"
# Only the stack sets this variable: it identifies the stack's processes.
MARK = "FORECASTER_STACK"


@dataclass(frozen=True)
class StackPaths:
    """The folders and addresses of a stack. Each service has its own loopback address, so all keep their ports.

    Args:
        root: the checkout.
        state: the folder of volumes, secrets and logs.
        services: of the Compose file.
        images: folders of unpacked images by build target; services of other targets run this checkout and this Python.
    """

    root: Path
    state: Path
    services: Mapping[str, Service]
    images: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def addresses(self) -> dict[str, str]:
        """The loopback address of each service, the same at each start."""
        first, second = hashlib.sha256(str(self.state.resolve()).encode()).digest()[:2]
        return {name: f"127.{first or 1}.{second}.{number}" for number, name in enumerate(self.services, start=2)}

    def folder(self, service: Service) -> Path:
        """Return the service's own folder."""
        return self.state / service.name

    def volume(self, name: str) -> Path:
        """Return the folder of a volume."""
        return self.state / "volumes" / name

    def log(self, service: Service) -> Path:
        """Return the file of the service's output."""
        return self.state / "logs" / f"{service.name}.log"

    def translated(self, text: str, service: Service) -> str:
        """Return a text in which the container's paths and hosts are replaced by this machine's."""
        paths = self._paths(service)
        address = self.addresses[service.name]
        hosts = {"0.0.0.0": address, "127.0.0.1": address, "localhost": address}
        known = "|".join(map(re.escape, sorted(paths, key=len, reverse=True)))
        here = "|".join(map(re.escape, hosts))
        there = "|".join(map(re.escape, self.addresses))
        # `mlflow:5000@` is an account and its password, not a host and its port.
        pattern = rf"(?<![\w.-])(?:(?:{known})(?![\w-])|(?:{here})(?![\w.])|(?:{there})(?=:\d{{1,5}}(?![\w@])))"
        replacements = paths | hosts | self.addresses
        return re.sub(pattern, lambda match: replacements[match[0]], text)

    def environment(self, service: Service) -> dict[str, str]:
        """Return the environment of the service's processes."""
        own = self.folder(service)
        image = self.images.get(service.target or "")
        folders = [image / "opt/venv/bin" if image else Path(sys.executable).parent, PROGRAMS, os.defpath]
        given = {name: self.translated(value, service) for name, value in service.environment.items()}
        return {
            "PATH": os.pathsep.join(str(folder) for folder in folders if folder),
            "HOME": str(own / "home"),
            "TMPDIR": str(own / "tmp"),
            "LANG": "C.UTF-8",
            MARK: str(self.state.resolve()),
            **given,
        }

    def working_dir(self, service: Service) -> Path:
        """Return the working directory of the service's processes."""
        return Path(self.translated(service.working_dir or APP, service))

    def prepare(self, service: Service, account: str | None) -> None:
        """Create the service's folders and secrets, owned by `account`; None is this process' account."""
        own = self.folder(service)
        for folder in (own / "home", own / "tmp", own / "secrets", own / "app", self.log(service).parent):
            folder.mkdir(parents=True, exist_ok=True)
        for volume in service.volumes.values():
            self.volume(volume).mkdir(parents=True, exist_ok=True)
        self._link_app(service)
        for target, source in service.secrets.items():
            self._write_secret(service, target, source)
        if account:
            # The account must reach its volumes, whatever the umask.
            self.volume("").chmod(0o711)
            for path in (
                own,
                *own.iterdir(),
                *(own / "secrets").iterdir(),
                *map(self.volume, service.volumes.values()),
            ):
                shutil.chown(path, account, account)

    def _paths(self, service: Service) -> dict[str, str]:
        own = self.folder(service)
        paths: dict[str, Path] = {APP: own / "app", "/tmp": own / "tmp"}
        paths |= {target: own / "secrets" / Path(target).name for target in service.secrets}
        paths |= dict(service.files)
        paths |= {target: self.volume(name) for target, name in service.volumes.items()}
        return {target: str(path.resolve()) for target, path in paths.items()}

    def _link_app(self, service: Service) -> None:
        """Build the working directory: links to the packages of the image, and the mounts among them."""
        app = self.folder(service) / "app"
        image = self.images.get(service.target or "")
        mounts = dict(service.files) | {target: self.volume(name) for target, name in service.volumes.items()}
        inner = {Path(target).relative_to(APP): path for target, path in mounts.items() if target.startswith(f"{APP}/")}
        _fill(app, image / "app" if image else self.root, list(inner))
        for target, path in sorted(inner.items()):
            (app / target).parent.mkdir(parents=True, exist_ok=True)
            _link(app / target, path)

    def _write_secret(self, service: Service, target: str, source: Path) -> None:
        try:
            text = source.read_text(encoding="utf-8")
        except OSError as error:
            raise ComposeError(
                f"{service.name}: the secret {source} cannot be read ({error}); run make secrets"
            ) from error
        file = self.folder(service) / "secrets" / Path(target).name
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        # The secret may be a URL with a host of the stack.
        file.write_text(self.translated(text, service), encoding="utf-8")


def _fill(folder: Path, source: Path, mounts: list[Path]) -> None:
    """Link the entries of `source` into `folder`; a folder with mounts below it is created instead."""
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.name.startswith(".") or entry.name in ("mlruns", "__pycache__"):
            continue
        below = [mount.relative_to(entry.name) for mount in mounts if mount.parts[0] == entry.name]
        if not below:
            _link(folder / entry.name, entry)
        elif Path() not in below:
            _fill(folder / entry.name, entry, below)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        # A running process may be importing through the link.
        if link.readlink() == target.resolve():
            return
        link.unlink()
    link.symlink_to(target.resolve())
