"""A bundle's files, as bytes: only regular ones of known names, none larger than it may be, each with its hash."""

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
# many more than a bundle has
_MOST_FILES = 100
# MLflow's small files, but for these
_MOST_BYTES = 1 * _MIB
_LARGE = {MANIFEST: 4 * _MIB, CALIBRATION: 16 * _MIB, GOLDEN: 16 * _MIB, MODEL: 512 * _MIB, KERAS_MODEL: 1024 * _MIB}


def check_names(sizes: Mapping[str, int | None]) -> None:
    """Raise BundleError unless these are a bundle's files, none too large.

    Args:
        sizes: by name, in bytes; None where that is not known.
    """
    unknown = sorted(sizes.keys() - {MANIFEST, *HASHED_FILES, *DOWNLOAD_EXTRAS})
    missing = sorted({MANIFEST, *HASHED_FILES} - sizes.keys())
    if unknown or missing:
        raise BundleError(f"unknown files {unknown[:5]}, missing files {missing}; register the model again")
    for name, size in sizes.items():
        most = _LARGE.get(name, _MOST_BYTES)
        if size is not None and size > most:
            raise BundleError(f"{name}: {size} bytes, at most {most} are read; register a smaller model")


def check_folder(folder: Path) -> None:
    """Raise BundleError unless a folder holds a bundle's files, all regular: opening a pipe would wait for ever."""
    sizes: dict[str, int | None] = {}
    # a registry may name any folder, and walking through a whole disk would not end
    paths = list(islice(folder.rglob("*"), _MOST_FILES + 1))
    if len(paths) > _MOST_FILES:
        raise BundleError(f"has more than {_MOST_FILES} files and folders; register the model again")
    for path in sorted(paths):
        about = path.lstat()
        shown = path.relative_to(folder).as_posix()
        if S_ISREG(about.st_mode):
            sizes[shown] = about.st_size
        elif not S_ISDIR(about.st_mode):
            raise BundleError(f"unknown files ['{shown}'], which are not regular ones; register the model again")
    check_names(sizes)


def check_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise BundleError unless each file has its hash."""
    if set(hashes) != set(HASHED_FILES):
        raise BundleError(f"{MANIFEST}: hashes of unknown files, or of too few; register the model again")
    changed = [name for name, digest in hashes.items() if hash_file(folder / name) != digest]
    if changed:
        raise BundleError(f"{changed} changed since the bundle was written; fetch or register it again")


def check_mlmodel(folder: Path) -> None:
    """Raise BundleError unless MLflow would load the model with its own ONNX loader and no other code."""
    try:
        text = (folder / MLMODEL).read_text(encoding="utf-8")
        # a few lines of aliases can stand for gigabytes
        if any(isinstance(one, yaml.AliasToken | yaml.TagToken) for one in yaml.scan(text, yaml.SafeLoader)):
            raise ValueError("aliases or tags")
        described = yaml.safe_load(text)
        flavors = described["flavors"]
        function, onnx = flavors["python_function"], flavors["onnx"]
        has_code = function.get("code") is not None or onnx.get("code") is not None
        is_ours = function["loader_module"] == "mlflow.onnx" and set(flavors) == {"python_function", "onnx"}
    # a file can be malformed in many ways, and PyYAML does not name them all
    except (OSError, yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{MLMODEL}: is malformed ({type(error).__name__}); register the model again") from error
    if has_code or not is_ours:
        raise BundleError(f"{MLMODEL}: asks for code other than MLflow's ONNX loader; do not serve it")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; NaN, deep nesting, endless numbers and broken text are refused.

    Raises:
        BundleError: it cannot be read.
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
    """Return a hash of a checked folder's files and their names, whether or not they are what its manifest says."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{hash_file(path)} {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
