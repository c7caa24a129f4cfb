"""Where a container's paths, hosts and secrets are on this machine, without containers."""

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
# what `python -m tests.stack.local` and nobody else sets: by it a stack's processes are known
MARK = "FORECASTER_STACK"


@dataclass(frozen=True)
class Places:
    """A stack's places.

    `root` is the checkout, `state` the folder of volumes, secrets and logs; `images` are unpacked ones by their target,
    for those that are not to be this checkout and this Python. Each service has a loopback address of its own, so that
    all keep their ports.
    """

    root: Path
    state: Path
    services: Mapping[str, Service]
    images: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def addresses(self) -> dict[str, str]:
        """The address of each service, the same each time."""
        first, second = hashlib.sha256(str(self.state.resolve()).encode()).digest()[:2]
        return {name: f"127.{first or 1}.{second}.{place}" for place, name in enumerate(self.services, start=2)}

    def own(self, service: Service) -> Path:
        """Return the folder of what is one service's alone."""
        return self.state / service.name

    def volume(self, name: str) -> Path:
        """Return a volume's folder."""
        return self.state / "volumes" / name

    def log(self, service: Service) -> Path:
        """Return the file that a service writes to."""
        return self.state / "logs" / f"{service.name}.log"

    def translated(self, text: str, service: Service) -> str:
        """Return a text of the container's with this machine's paths and addresses."""
        paths = self._paths(service)
        address = self.addresses[service.name]
        hosts = {"0.0.0.0": address, "127.0.0.1": address, "localhost": address}
        known = "|".join(map(re.escape, sorted(paths, key=len, reverse=True)))
        here = "|".join(map(re.escape, hosts))
        there = "|".join(map(re.escape, self.addresses))
        # a host's port, not an account's password
        pattern = rf"(?<![\w.-])(?:(?:{known})(?![\w-])|(?:{here})(?![\w.])|(?:{there})(?=:\d{{1,5}}(?![\w@])))"
        meant = paths | hosts | self.addresses
        return re.sub(pattern, lambda match: meant[match[0]], text)

    def environment(self, service: Service) -> dict[str, str]:
        """Return all variables of a service's processes."""
        own = self.own(service)
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
        """Return the folder that a service's processes start in."""
        return Path(self.translated(service.working_dir or APP, service))

    def make(self, service: Service, account: str | None) -> None:
        """Make a service's folders and secrets; `account` is who must be able to use them, if not this process'."""
        own = self.own(service)
        for folder in (own / "home", own / "tmp", own / "secrets", own / "app", self.log(service).parent):
            folder.mkdir(parents=True, exist_ok=True)
        for volume in service.volumes.values():
            self.volume(volume).mkdir(parents=True, exist_ok=True)
        self._lay_out(service)
        for target, source in service.secrets.items():
            self._write_secret(service, target, source)
        if account:
            # it must get through to its volumes, whatever the umask
            self.volume("").chmod(0o711)
            for path in (
                own,
                *own.iterdir(),
                *(own / "secrets").iterdir(),
                *map(self.volume, service.volumes.values()),
            ):
                shutil.chown(path, account, account)

    def _paths(self, service: Service) -> dict[str, str]:
        own = self.own(service)
        paths: dict[str, Path] = {APP: own / "app", "/tmp": own / "tmp"}
        paths |= {target: own / "secrets" / Path(target).name for target in service.secrets}
        paths |= dict(service.files)
        paths |= {target: self.volume(name) for target, name in service.volumes.items()}
        return {target: str(path.resolve()) for target, path in paths.items()}

    def _lay_out(self, service: Service) -> None:
        """Lay the image's working directory: its rooms, and the volumes that are mounted between them."""
        app = self.own(service) / "app"
        image = self.images.get(service.target or "")
        mounts = dict(service.files) | {target: self.volume(name) for target, name in service.volumes.items()}
        inner = {Path(target).relative_to(APP): path for target, path in mounts.items() if target.startswith(f"{APP}/")}
        _fill(app, image / "app" if image else self.root, list(inner))
        for place, path in sorted(inner.items()):
            (app / place).parent.mkdir(parents=True, exist_ok=True)
            _link(app / place, path)

    def _write_secret(self, service: Service, target: str, source: Path) -> None:
        try:
            text = source.read_text(encoding="utf-8")
        except OSError as error:
            raise ComposeError(f"{service.name}: the secret {source} cannot be read ({error}); make secrets") from error
        file = self.own(service) / "secrets" / Path(target).name
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        # addresses in URLs, too
        file.write_text(self.translated(text, service), encoding="utf-8")


def _fill(place: Path, source: Path, mounts: list[Path]) -> None:
    """Link what a folder of the image has into `place`; a folder that something is mounted in is one of its own."""
    if place.is_symlink():
        place.unlink()
    place.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.name.startswith(".") or entry.name in ("mlruns", "__pycache__"):
            continue
        below = [mount.relative_to(entry.name) for mount in mounts if mount.parts[0] == entry.name]
        if not below:
            _link(place / entry.name, entry)
        elif Path() not in below:
            _fill(place / entry.name, entry, below)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        # a running process may be importing through it
        if link.readlink() == target.resolve():
            return
        link.unlink()
    link.symlink_to(target.resolve())
