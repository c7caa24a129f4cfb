"""The service's cache: `NAME/VERSION/` is a verified bundle, `NAME/index.json` says which versions and aliases count.

`NAME/.tried-VERSION` says which bundle has passed its trial, `NAME/.refused.json` which versions were refused.
Everything arrives by rename, so a reader sees the old or the new, whole.
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
# MLflow allows almost anything as a name; here it becomes a folder and part of a URL
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ModelIndex:
    """What the cache holds of one model: `aliases` by name, the MLflow run of each version."""

    aliases: dict[str, int]
    runs: dict[int, str]

    def version_of(self, name: str, alias: str | None, version: int | None) -> int:
        """Return the version of model `name` meant by an alias or a number; the champion when both are None.

        Raises:
            UnknownModel: there is no such alias or version.
        """
        alias = CHAMPION if alias is None else alias
        found = self.aliases.get(alias) if version is None else version
        if found not in self.runs:
            asked = f"alias '{alias}'" if version is None else f"version {version}"
            raise UnknownModel(
                f"model '{name}' has no {asked}; it has the aliases {sorted(self.aliases)} "
                f"and the versions {sorted(self.runs)}"
            )
        return found

    def settled(self, usable: Collection[int], before: "ModelIndex") -> "ModelIndex":
        """Return the index of the `usable` versions; an alias whose version is not stays where it was `before`."""
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
class ServiceError:
    """Why a version was refused.

    Args:
        reason: in words that anybody may read.
        trial: which bundle was tried, and how; empty where it did not get so far.
        at: when, in seconds since 1970.
    """

    reason: str
    trial: str = ""
    at: float = 0


def bundle_folder(cache: Path, name: str, version: int) -> Path:
    """Return where a version's bundle lies."""
    return cache / name / str(version)


def index_files(cache: Path) -> list[Path]:
    """Return the index file of every model in the cache, sorted; its folder has the model's name."""
    return sorted(cache.glob(f"*/{INDEX}"))


def read_index(file: Path) -> ModelIndex:
    """Return the index that a file holds.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        runs = {int(version): str(run) for version, run in raw["runs"].items()}
        aliases = {str(alias): int(version) for alias, version in raw["aliases"].items()}
        if not runs.keys() >= set(aliases.values()):
            raise ValueError("an alias of a version without a run")
        return ModelIndex(aliases, runs)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise BundleError(f"{file.parent.name}/{file.name}: cannot be read ({error}); sync writes it again") from error


def read_indexes(cache: Path) -> dict[str, ModelIndex]:
    """Return the index of every model in the cache, by name; empty where there is no cache yet.

    Raises:
        BundleError: an index cannot be read.
    """
    return {file.parent.name: read_index(file) for file in index_files(cache)}


def write_index(cache: Path, name: str, index: ModelIndex) -> None:
    """Replace a model's index if it differs."""
    _replace(cache / name / INDEX, json.dumps(asdict(index), indent=1, sort_keys=True))


def is_tried(folder: Path, bundle: str) -> bool:
    """Say whether the bundle of this identity, in a version's `folder`, has passed its trial."""
    try:
        return _mark(folder).read_text(encoding="utf-8").strip() == bundle
    except (OSError, UnicodeDecodeError):
        return False


def mark_tried(folder: Path, bundle: str) -> None:
    """Note that it has."""
    _replace(_mark(folder), bundle)


def read_refusals(cache: Path, name: str) -> dict[int, ServiceError]:
    """Return a model's refused versions; none where that cannot be read, for then they are tried again."""
    try:
        raw = json.loads((cache / name / _REFUSED).read_text(encoding="utf-8"))
        return {int(version): ServiceError(**one) for version, one in raw.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def write_refusals(cache: Path, name: str, refusals: dict[int, ServiceError]) -> None:
    """Replace a model's refused versions; there is no file where there are none."""
    file = cache / name / _REFUSED
    if refusals:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps({version: asdict(one) for version, one in sorted(refusals.items())}, indent=1))
    # a read-only cache that is up to date stays good
    elif file.exists():
        file.unlink()


def remove_version(folder: Path) -> None:
    """Remove a version's bundle and its mark."""
    shutil.rmtree(folder)
    _mark(folder).unlink(missing_ok=True)


def fingerprint(cache: Path) -> tuple[tuple[str, int], ...]:
    """Return something that changes whenever an index does, or a bundle is brought anew."""
    found = sorted([*cache.glob(f"*/{INDEX}"), *cache.glob("*/[0-9]*")])
    return tuple((f"{path.parent.name}/{path.name}", path.stat().st_mtime_ns) for path in found)


def _mark(folder: Path) -> Path:
    return folder.with_name(f".tried-{folder.name}")


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all, and only if it differs."""
    text += "\n"
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") == text:
        return
    with write_atomically(file) as draft:
        draft.write_text(text, encoding="utf-8")
