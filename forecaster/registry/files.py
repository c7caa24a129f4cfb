"""Check a bundle's files before parsing them: known names, regular files, limited sizes, and matching hashes."""

import hashlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import yaml
from pydantic_core import from_json

from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import (
    CALIBRATION,
    DOWNLOAD_EXTRAS,
    GOLDEN,
    HASHED_FILES,
    KERAS_MODEL,
    MANIFEST,
    MODEL,
)

MLMODEL = "MLmodel"
_MIB = 2**20
# far more than a bundle has
_MOST_FILES = 100
# the size limit of all other files
_MOST_BYTES = 1 * _MIB
_LARGE = {MANIFEST: 4 * _MIB, CALIBRATION: 16 * _MIB, GOLDEN: 16 * _MIB, MODEL: 512 * _MIB, KERAS_MODEL: 1024 * _MIB}


def check_names(sizes: Mapping[str, int | None]) -> None:
    """Raise BundleError unless these are the files of a bundle, and none is too large.

    Args:
        sizes: the size of each file in bytes, by name; None if it is not known.
    """
    unknown = sorted(sizes.keys() - {MANIFEST, *HASHED_FILES, *DOWNLOAD_EXTRAS})
    missing = sorted({MANIFEST, *HASHED_FILES} - sizes.keys())
    if unknown or missing:
        raise BundleError(f"unknown files {unknown[:5]}, missing files {missing}; register the model again")
    for name, size in sizes.items():
        most = _LARGE.get(name, _MOST_BYTES)
        if size is not None and size > most:
            raise BundleError(f"{name}: has {size} bytes, more than the limit of {most}; register a smaller model")


def check_folder(folder: Path) -> None:
    """Raise BundleError unless a folder contains the files of a bundle, all of them regular.

    Opening a pipe would block for ever.
    """
    sizes: dict[str, int | None] = {}
    # a registry may name any folder, such as the root of a disk
    paths = list(islice(folder.rglob("*"), _MOST_FILES + 1))
    if len(paths) > _MOST_FILES:
        raise BundleError(f"has more than {_MOST_FILES} files and folders; register the model again")
    for path in sorted(paths):
        about = path.lstat()
        shown = path.relative_to(folder).as_posix()
        if S_ISREG(about.st_mode):
            sizes[shown] = about.st_size
        elif not S_ISDIR(about.st_mode):
            raise BundleError(f"'{shown}' is not a regular file; register the model again")
    check_names(sizes)


def check_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise BundleError unless each file has the given SHA-256."""
    if set(hashes) != set(HASHED_FILES):
        raise BundleError(f"{MANIFEST}: has hashes of unknown files, or lacks some; register the model again")
    changed = [name for name, digest in hashes.items() if hash_file(folder / name) != digest]
    if changed:
        raise BundleError(f"{changed} changed since the bundle was written; download or register it again")


def check_mlmodel(folder: Path) -> None:
    """Raise BundleError unless MLflow would load the model with its own ONNX loader and no other code."""
    try:
        text = (folder / MLMODEL).read_text(encoding="utf-8")
        # a few lines with aliases can expand to gigabytes
        if any(isinstance(token, yaml.AliasToken | yaml.TagToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise ValueError("aliases or tags")
        described = yaml.safe_load(text)
        flavors = described["flavors"]
        function, onnx = flavors["python_function"], flavors["onnx"]
        has_code = function.get("code") is not None or onnx.get("code") is not None
        is_ours = function["loader_module"] == "mlflow.onnx" and set(flavors) == {"python_function", "onnx"}
    # PyYAML raises various errors for malformed files
    except (OSError, yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{MLMODEL}: is malformed ({type(error).__name__}); register the model again") from error
    if has_code or not is_ours:
        raise BundleError(f"{MLMODEL}: asks for code other than MLflow's ONNX loader; do not serve it")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        BundleError: the file cannot be read, or is not JSON. NaN, deep nesting and very long numbers are refused.
    """
    try:
        return from_json(path.read_bytes(), allow_inf_nan=False)
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = str(error)
    raise BundleError(f"{path.name}: cannot be read as JSON ({reason}); register the model again")


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """Return a hash of the names and contents of all files in a folder that `check_folder` has checked."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{hash_file(path)} {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
