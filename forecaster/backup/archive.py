"""A backup's archive: a tar file, compressed if its name ends with .tar.zst, whose last member lists all hashes."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forecaster.database.backup import Kind
from forecaster.domain.errors import BackupError, ConfigError
from forecaster.domain.files import write_atomically
from forecaster.registry.files import hash_file

CONTENTS = "manifest.json"
_MAX_NAMES_SHOWN = 3


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RegistryPart(_Part):
    """MLflow's store.

    Args:
        kind: the kind of its database.
        root: the folder that contained the artifacts.
        columns: the tables and columns with artifact locations.
        elsewhere: artifact locations outside `root`, which are not in the archive.
    """

    kind: Kind
    root: str = Field(pattern="^/")
    columns: tuple[tuple[str, str], ...]
    elsewhere: tuple[str, ...]


class BarsPart(_Part):
    """The bar store, and the number of its symbols."""

    symbols: int


class DatabasePart(_Part):
    """The service's database, and its kind."""

    kind: Kind


class Contents(_Part):
    """The contents of an archive: its parts, and the SHA-256 of each file."""

    format: Literal[1] = 1
    made_at: str
    registry: RegistryPart | None
    bars: BarsPart | None
    database: DatabasePart | None
    files: dict[str, str]

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of the parts in the archive."""
        return tuple(name for name in ("registry", "bars", "database") if getattr(self, name) is not None)


class Archive:
    """An archive that is being written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, str] = {}

    def add(self, name: str, path: Path) -> None:
        """Add a file with its current size.

        Raises:
            OSError: the file cannot be read, or becomes shorter in the meantime.
        """
        with path.open("rb") as file:
            hashed, status = _Hashed(file), os.fstat(file.fileno())
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = status.st_size, status.st_mode & 0o777, int(status.st_mtime)
            self._tar.addfile(member, hashed)  # type: ignore[arg-type]
        self.files[name] = hashed.digest.hexdigest()

    def close(self, parts: dict[str, _Part]) -> Contents:
        """Add the list of contents as the last member, and return it."""
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        kept: dict[str, Any] = {name: parts.get(name) for name in ("registry", "bars", "database")}
        contents = Contents(made_at=made_at, files=self.files, **kept)
        member = tarfile.TarInfo(CONTENTS)
        text = contents.model_dump_json(indent=1).encode()
        member.size, member.mode = len(text), 0o600
        self._tar.addfile(member, io.BytesIO(text))
        return contents


class _Hashed:
    """A file that hashes its bytes as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        return content


@contextmanager
def writing(path: Path) -> Iterator[Archive]:
    """Yield a new archive; the file appears at the end, complete, and readable only by its owner.

    Raises:
        ConfigError: the name ends with neither .tar nor .tar.zst.
        BackupError: the file already exists, or cannot be written.
    """
    is_compressed = _is_compressed(path)
    if path.exists():
        raise BackupError(f"{path}: already exists; choose another name, backups are not replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            write_atomically(path, mode=0o600) as draft,
            draft.open("wb") as file,
            _compressing(file, is_compressed) as stream,
            tarfile.open(fileobj=stream, mode="w|") as tar,
        ):
            yield Archive(tar)
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{path}: cannot be written ({error}); free disk space, and run it again") from error


def unpack(path: Path, folder: Path) -> Contents:
    """Extract an archive into an empty folder, verify every file, and return its contents.

    Raises:
        BackupError: the archive cannot be read, or is not exactly what was written.
    """
    try:
        with (
            path.open("rb") as file,
            _expanding(file, _is_compressed(path)) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                _check_member(member, path)
                tar.extract(member, folder, filter="data")
    # for a damaged stream, the decoder may raise any of these
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise BackupError(
            f"{path}: cannot be read ({error}); it is truncated, or not a backup; use another backup"
        ) from error
    contents = _read_contents(path, folder)
    _check_files(path, folder, contents)
    return contents


def _is_compressed(path: Path) -> bool:
    if path.name.endswith((".tar", ".tar.zst")):
        return path.suffix == ".zst"
    raise ConfigError(f"{path}: name it something.tar, or something.tar.zst to compress it")


def _compressing(file: IO[bytes], is_compressed: bool) -> Any:
    import pyarrow as pa

    return pa.CompressedOutputStream(file, "zstd") if is_compressed else file


def _expanding(file: IO[bytes], is_compressed: bool) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(file, "zstd") if is_compressed else file


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if not member.isreg() or member.name.startswith("/") or ".." in parts:
        raise BackupError(f"{path}: '{member.name}' is not a regular file within it; this is not a backup")


def _read_contents(path: Path, folder: Path) -> Contents:
    try:
        return Contents.model_validate_json((folder / CONTENTS).read_bytes())
    except FileNotFoundError as error:
        raise BackupError(f"{path}: {CONTENTS} at its end is missing; it is truncated, or not a backup") from error
    except ValidationError as error:
        raise BackupError(
            f"{path}: this program cannot read its {CONTENTS} ({error.error_count()} errors); use the program that "
            "wrote it, or another backup"
        ) from error


def _check_files(path: Path, folder: Path, contents: Contents) -> None:
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {CONTENTS}
    missing, unknown = sorted(contents.files.keys() - found), sorted(found - contents.files.keys())
    changed = sorted(name for name in found & contents.files.keys() if hash_file(folder / name) != contents.files[name])
    for names, problem in ((missing, "missing"), (unknown, "not listed"), (changed, "changed since it was written")):
        if names:
            raise BackupError(f"{path}: {names[:_MAX_NAMES_SHOWN]} ({len(names)}): {problem}; use another backup")
