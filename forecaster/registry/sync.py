"""The sync child: asks MLflow which versions count, and brings them, verified, into the service's cache.

A process of its own, because MLflow is heavy and the serving process must stay lean:

    FORECASTER_TRACKING_URI=sqlite:///mlruns/mlflow.db python -m forecaster.registry.sync --cache mlruns/cache

The URI may hold a password, and anybody on the machine may list the arguments of a command, so it is no argument.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from forecaster.domain.errors import BundleError, ForecasterError
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import INDEX, NAME, ModelIndex, bundle_folder, write_index
from forecaster.registry.store import RegisteredModel, Store

# versions without an alias stay available by number, the newest of them
NEWEST_KEPT = 3
DRAFT = ".fetch-"
# no child lives as long
ABANDONED_AFTER_SECONDS = 3600


def sync(store: Store, cache: Path) -> dict[str, ModelIndex]:
    """Bring the cache up to date with the registry.

    Args:
        store: where to ask.
        cache: the cache's folder; made if missing.

    Returns:
        the index of each model whose versions could all be fetched and verified.

    Raises:
        StoreUnavailable: the store does not answer.
        BundleError: a version cannot be trusted or written. All else is up to date; a model whose alias it carries
            keeps its index.
    """
    indexes: dict[str, ModelIndex] = {}
    problems: list[str] = []
    _remove_abandoned(cache)
    models = store.models()
    for model in models:
        indexes |= sync_model(store, cache, model, problems)
    for file in cache.glob(f"*/{INDEX}"):
        if file.parent.name not in {model.name for model in models}:
            # deleted in the registry, so it is served no more
            file.unlink()
            shutil.rmtree(file.parent)
    if problems:
        raise BundleError("; ".join(problems))
    return indexes


def sync_model(store: Store, cache: Path, model: RegisteredModel, problems: list[str]) -> dict[str, ModelIndex]:
    """Bring one model's versions, and return its index by its name; what went wrong is added to `problems`."""
    if not NAME.fullmatch(model.name):
        problems.append(f"model '{model.name}': its name cannot be served; use letters, digits, '.', '_' and '-'")
        return {}
    aliases = {alias: version for alias, version in model.aliases.items() if version in model.runs}
    wanted = {*aliases.values(), *sorted(model.runs)[-NEWEST_KEPT:]}
    fetched = {version for version in sorted(wanted) if _is_fetched(store, cache, model.name, version, problems)}
    if not fetched >= set(aliases.values()):
        return {}
    index = ModelIndex(aliases, {version: model.runs[version] for version in sorted(fetched)})
    (cache / model.name).mkdir(parents=True, exist_ok=True)
    write_index(cache, model.name, index)
    _remove_others(cache / model.name, fetched)
    return {model.name: index}


def _is_fetched(store: Store, cache: Path, name: str, version: int, problems: list[str]) -> bool:
    try:
        _fetch(store, cache, name, version)
    except (BundleError, OSError) as error:
        problems.append(f"{name} version {version}: {error}")
        return False
    return True


def _fetch(store: Store, cache: Path, name: str, version: int) -> None:
    target = bundle_folder(cache, name, version)
    if _is_whole(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=DRAFT, dir=target.parent) as draft:
        folder = store.download(name, version, Path(draft))
        bundle = read_bundle(folder)
        if bundle.manifest.name != name:
            raise BundleError(f"its manifest is of model '{bundle.manifest.name}'")
        if target.is_dir() and not _is_whole(target):
            target.rename(Path(draft) / "damaged")
        try:
            folder.replace(target)
        except OSError:
            # another process has brought the same version meanwhile
            if not target.is_dir():
                raise


def _is_whole(target: Path) -> bool:
    if not target.is_dir():
        return False
    try:
        read_bundle(target)
    except (BundleError, OSError):
        return False
    return True


def _remove_abandoned(cache: Path) -> None:
    """Remove what killed children left half-fetched."""
    for draft in cache.glob(f"*/{DRAFT}*"):
        if time.time() - draft.stat().st_mtime > ABANDONED_AFTER_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)


def _remove_others(folder: Path, wanted: set[int]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and path.name.isdigit() and int(path.name) not in wanted:
            shutil.rmtree(path)


def main() -> int:
    """Run one sync; 0 when all is up to date, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m forecaster.registry.sync", description=__doc__)
    parser.add_argument("--cache", required=True, type=Path, help="the service's cache folder")
    arguments = parser.parse_args()
    uri = os.environ.get("FORECASTER_TRACKING_URI") or parser.error("set FORECASTER_TRACKING_URI: where MLflow is")
    try:
        indexes = sync(Store(uri), arguments.cache)
    except ForecasterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({name: index.aliases for name, index in indexes.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
