"""The service's cache: `NAME/VERSION/` is a verified bundle, `NAME/index.json` says which versions and aliases count.

Everything arrives by rename, so a reader sees the old or the new, whole.
"""

import json
import os
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from forecaster.domain.errors import BundleError, UnknownModel

INDEX = "index.json"
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

    def only(self, versions: Collection[int]) -> "ModelIndex":
        """Return the index without whatever is not one of `versions`."""
        aliases = {alias: version for alias, version in self.aliases.items() if version in versions}
        return ModelIndex(aliases, {version: run for version, run in self.runs.items() if version in versions})


def bundle_folder(cache: Path, name: str, version: int) -> Path:
    """Return where a version's bundle lies."""
    return cache / name / str(version)


def read_indexes(cache: Path) -> dict[str, ModelIndex]:
    """Return the index of every model in the cache, by name; empty where there is no cache yet.

    Raises:
        BundleError: an index cannot be read.
    """
    indexes = {}
    for file in sorted(cache.glob(f"*/{INDEX}")):
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            runs = {int(version): str(run) for version, run in raw["runs"].items()}
            indexes[file.parent.name] = ModelIndex({alias: int(n) for alias, n in raw["aliases"].items()}, runs)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise BundleError(f"{file}: cannot be read ({error!r}); remove it and sync again") from error
    return indexes


def write_index(cache: Path, name: str, index: ModelIndex) -> bool:
    """Replace a model's index if it differs; return whether it did."""
    file = cache / name / INDEX
    text = json.dumps(asdict(index), indent=1, sort_keys=True) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return False
    draft = file.with_name(f".{INDEX}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
    return True


def fingerprint(cache: Path) -> tuple[tuple[str, int], ...]:
    """Return something that changes whenever an index does, or a bundle is brought anew."""
    found = sorted([*cache.glob(f"*/{INDEX}"), *cache.glob("*/[0-9]*")])
    return tuple((f"{path.parent.name}/{path.name}", path.stat().st_mtime_ns) for path in found)
