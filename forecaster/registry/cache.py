"""The service's cache of bundles.

`NAME/VERSION/` is a verified bundle, and `NAME/index.json` lists the model's versions and aliases.
`NAME/.tried-VERSION` names the bundle that passed its trial, and `NAME/.refused.json` lists refused versions. All files
and folders are replaced by renaming, so a reader sees either the old or the new content.
"""

import json
import re
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from forecaster.domain.errors import BundleError, UnknownModel
from forecaster.domain.files import write_atomically

INDEX = "index.json"
_REFUSED = ".refused.json"
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
# MLflow allows almost any name; here it is the name of a folder and a part of a URL
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ModelIndex:
    """A model's versions in the cache: the version of each alias, and the MLflow run of each version."""

    aliases: dict[str, int]
    runs: dict[int, str]

    def version_of(self, name: str, alias: str | None, version: int | None) -> int:
        """Return the version of model `name` for an alias or a number; the champion's when both are None.

        Raises:
            UnknownModel: there is no such alias or version.
        """
        alias = CHAMPION if alias is None else alias
        found = self.aliases.get(alias) if version is None else version
        if found not in self.runs:
            missing = f"alias '{alias}'" if version is None else f"version {version}"
            raise UnknownModel(
                f"model '{name}' has no {missing}; it has the aliases {sorted(self.aliases)} "
                f"and the versions {sorted(self.runs)}"
            )
        return found

    def keep_usable(self, usable: Collection[int], before: "ModelIndex") -> "ModelIndex":
        """Return the index of the `usable` versions; an alias of another version keeps its version from `before`."""
        aliases, runs = {}, {version: run for version, run in self.runs.items() if version in usable}
        for alias, version in self.aliases.items():
            if version in runs:
                aliases[alias] = version
            elif alias in before.aliases:
                aliases[alias] = before.aliases[alias]
                runs[before.aliases[alias]] = before.runs[before.aliases[alias]]
        return ModelIndex(aliases, runs)


NO_INDEX = ModelIndex({}, {})


@dataclass(frozen=True)
class Refusal:
    """Why a version was refused.

    Args:
        reason: the reason, without confidential details.
        trial: the hash of the bundle and the limits of its trial; empty if there was no trial.
        at: the time of the trial, in seconds since 1970.
    """

    reason: str
    trial: str = ""
    at: float = 0


def bundle_folder(cache: Path, name: str, version: int) -> Path:
    """Return the folder of a version's bundle."""
    return cache / name / str(version)


def index_files(cache: Path) -> list[Path]:
    """Return the index files of all models in the cache, sorted; the name of a file's folder is the model's name."""
    return sorted(cache.glob(f"*/{INDEX}"))


def read_index(file: Path) -> ModelIndex:
    """Return the index in a file.

    Raises:
        BundleError: the file cannot be read.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        runs = {int(version): str(run) for version, run in raw["runs"].items()}
        aliases = {str(alias): int(version) for alias, version in raw["aliases"].items()}
        if not runs.keys() >= set(aliases.values()):
            raise ValueError("an alias names a version without a run")
        return ModelIndex(aliases, runs)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise BundleError(f"{file.parent.name}/{file.name}: cannot be read ({error}); sync writes it again") from error


def read_indexes(cache: Path) -> dict[str, ModelIndex]:
    """Return the index of every model in the cache, by name; empty if there is no cache yet.

    Raises:
        BundleError: an index cannot be read.
    """
    return {file.parent.name: read_index(file) for file in index_files(cache)}


def write_index(cache: Path, name: str, index: ModelIndex) -> None:
    """Write a model's index, if it changed."""
    _replace(cache / name / INDEX, json.dumps(asdict(index), indent=1, sort_keys=True))


def has_passed(folder: Path, bundle: str) -> bool:
    """Return whether the bundle with this identity, in a version's `folder`, has passed its trial."""
    try:
        return _mark(folder).read_text(encoding="utf-8").strip() == bundle
    except (OSError, UnicodeDecodeError):
        return False


def mark_passed(folder: Path, bundle: str) -> None:
    """Record that the bundle with this identity has passed its trial."""
    _replace(_mark(folder), bundle)


def read_refusals(cache: Path, name: str) -> dict[int, Refusal]:
    """Return a model's refused versions; none if they cannot be read, so that the versions are tried again."""
    try:
        raw = json.loads((cache / name / _REFUSED).read_text(encoding="utf-8"))
        return {int(version): Refusal(**fields) for version, fields in raw.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def write_refusals(cache: Path, name: str, refusals: dict[int, Refusal]) -> None:
    """Write a model's refused versions; remove the file if there are none."""
    file = cache / name / _REFUSED
    if refusals:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {version: asdict(refusal) for version, refusal in sorted(refusals.items())}
        _replace(file, json.dumps(content, indent=1))
    # checked first: a read-only cache that is up to date must not fail
    elif file.exists():
        file.unlink()


def remove_version(folder: Path) -> None:
    """Remove a version's bundle and its record of a passed trial."""
    shutil.rmtree(folder)
    _mark(folder).unlink(missing_ok=True)


def fingerprint(cache: Path) -> tuple[tuple[str, int], ...]:
    """Return a value that changes whenever an index changes or a bundle is replaced."""
    paths = sorted([*cache.glob(f"*/{INDEX}"), *cache.glob("*/[0-9]*")])
    return tuple((f"{path.parent.name}/{path.name}", path.stat().st_mtime_ns) for path in paths)


def _mark(folder: Path) -> Path:
    return folder.with_name(f".tried-{folder.name}")


def _replace(file: Path, text: str) -> None:
    """Write a file atomically, if its content changed."""
    text += "\n"
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") == text:
        return
    with write_atomically(file) as draft:
        draft.write_text(text, encoding="utf-8")
