"""Sync the service's cache with MLflow's registry: download, verify and try the versions that are served.

It runs in its own process, because MLflow is large and the serving process must stay small:

    FORECASTER_TRACKING_URI=sqlite:///mlruns/mlflow.db python -m forecaster.registry.sync --cache mlruns/cache

A version that fails is reported, and all others are still synced; its alias keeps its old version. Failures are
recorded: a failed version comes last in the next sync, and the same bundle is not tried again for an hour.

The URI is not an argument, because it may contain a password, and every user of the machine can list the arguments.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from forecaster.domain.errors import BundleError, ForecasterError
from forecaster.domain.exits import FAILED, PARTLY_FAILED, SUCCESS
from forecaster.registry.bundle import identity, read_bundle
from forecaster.registry.cache import (
    INDEX,
    NAME,
    NO_INDEX,
    ModelIndex,
    Refusal,
    bundle_folder,
    index_files,
    mark_passed,
    read_index,
    read_refusals,
    remove_version,
    write_index,
    write_refusals,
)
from forecaster.registry.files import check_folder, hash_folder
from forecaster.registry.sandbox import RETRY_AFTER_SECONDS, Limits, check_bundles
from forecaster.registry.store import RegisteredModel, Store

# the newest versions stay available by number, even without an alias
NEWEST_KEPT = 3
DRAFT = ".fetch-"
# longer than any sync takes
ABANDONED_AFTER_SECONDS = 3600
_LIMITS = Limits()
_log = logging.getLogger("forecaster.sync")


def sync(store: Store, cache: Path, limits: Limits = _LIMITS) -> dict[str, ModelIndex]:
    """Sync the cache with `sync_all`, and return the index of each model.

    Raises:
        StoreUnavailable: the store does not answer.
        BundleError: a model or a version is refused; all others are up to date.
    """
    indexes, problems = sync_all(store, cache, limits)
    if problems:
        raise BundleError("; ".join(problems))
    return indexes


def sync_all(
    store: Store, cache: Path, limits: Limits, *, allow_empty: bool = False
) -> tuple[dict[str, ModelIndex], list[str]]:
    """Sync all models of the registry into the cache.

    Args:
        store: the registry.
        cache: the cache's folder; created if missing.
        limits: the limits of a version's trial.
        allow_empty: whether the cache may lose everything that it serves.

    Returns:
        The index of each synced model, and a message for each failure, without confidential details.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    indexes: dict[str, ModelIndex] = {}
    problems: list[str] = []
    _remove_abandoned(cache)
    names = store.names()
    models = _read_all(store, names, problems)
    lost = _lost(_cached(cache), names, models)
    if allow_empty or not lost:
        lost = frozenset()
    else:
        problems.append(
            f"the registry no longer has any of the {len(lost)} served models, and may have been emptied or replaced; "
            "the cache is kept. To remove the models: python -m forecaster.registry.sync --allow-empty"
        )
    # models with refused versions come last
    for model in sorted(models, key=lambda model: bool(read_refusals(cache, model.name))):
        if model.name in lost:
            continue
        try:
            indexes[model.name], refused = sync_model(store, cache, model, limits)
            problems += refused
        # such as a file in the cache where the model's folder should be; the other models must still be synced
        except Exception as error:
            problems.append(f"model '{model.name}': {_log_and_explain(f'model {model.name}', error)}")
    for file in index_files(cache):
        if file.parent.name not in {*names, *lost}:
            _remove_deleted(store, file, problems)
    return indexes, problems


def sync_model(
    store: Store, cache: Path, model: RegisteredModel, limits: Limits = _LIMITS
) -> tuple[ModelIndex, list[str]]:
    """Sync a model's versions; return its index, and a message for each refused version."""
    aliases = {alias: version for alias, version in model.aliases.items() if version in model.runs}
    wanted = {*aliases.values(), *sorted(model.runs)[-NEWEST_KEPT:]}
    refusals = {version: refusal for version, refusal in read_refusals(cache, model.name).items() if version in wanted}
    usable, problems = set(), []
    for version in sorted(wanted, key=lambda version: (version in refusals, version)):
        refusal = _sync_version(store, cache, model.name, version, limits, refusals)
        if refusal is None:
            usable.add(version)
        else:
            problems.append(f"model '{model.name}' version {version}: {refusal.reason}")
    write_refusals(cache, model.name, refusals)
    before = _cached(cache, model.name).get(model.name, NO_INDEX)
    index = ModelIndex(aliases, {version: model.runs[version] for version in sorted(wanted)}).keep_usable(
        usable, before
    )
    (cache / model.name).mkdir(parents=True, exist_ok=True)
    write_index(cache, model.name, index)
    _remove_others(cache / model.name, index.runs)
    return index, problems


def _read_all(store: Store, names: Iterable[str], problems: list[str]) -> list[RegisteredModel]:
    """Return the models that can be read and served; add a message for each other model to `problems`."""
    models = []
    for name in names:
        if not NAME.fullmatch(name):
            problems.append(f"model {name[:100]!a}: its name cannot be served; use letters, digits, '.', '_' and '-'")
            continue
        try:
            models.append(store.read(name))
        # a damaged entry may raise any error, and the other models must still be synced
        except Exception as error:
            problems.append(f"model '{name}': {_log_and_explain(f'model {name}', error)}")
    return models


def _cached(cache: Path, name: str = "*") -> dict[str, ModelIndex]:
    """Return the cache's indexes by model; an unreadable index is left out, and will be written again."""
    indexes = {}
    for file in cache.glob(f"{name}/{INDEX}"):
        with suppress(BundleError):
            indexes[file.parent.name] = read_index(file)
    return indexes


def _lost(cached: Mapping[str, ModelIndex], names: Iterable[str], models: Iterable[RegisteredModel]) -> frozenset[str]:
    """Return the cache's models if every one of them has lost all its versions or all its aliases, else nothing."""
    read = {model.name: model for model in models}
    # a model that exists but cannot be read is not lost
    unread = set(names) - read.keys()
    served = {name: index for name, index in cached.items() if index.runs}
    for name, index in served.items():
        model = read.get(name)
        is_left = name in unread if model is None else model.runs and (model.aliases or not index.aliases)
        if is_left:
            return frozenset()
    return frozenset(served)


def _sync_version(
    store: Store, cache: Path, name: str, version: int, limits: Limits, refusals: dict[int, Refusal]
) -> Refusal | None:
    """Bring a version into the cache, and return its refusal if it is refused; keep `refusals` up to date.

    A provisional refusal is written first, so that if this process is killed, the version comes last in the next sync.
    """
    if _is_intact(bundle_folder(cache, name, version)):
        refusals.pop(version, None)
        return None
    before = refusals.get(version)
    if before is None:
        write_refusals(cache, name, {**refusals, version: Refusal("it could not be downloaded and tried in time")})
    try:
        refusal = _download(store, cache, name, version, limits, before)
    # a version may fail in any way, and the other versions must still be synced
    except Exception as error:
        refusal = Refusal(_log_and_explain(f"model {name} version {version}", error))
    if refusal is None:
        refusals.pop(version, None)
    else:
        refusals[version] = refusal
    return refusal


def _log_and_explain(where: str, error: Exception) -> str:
    """Log an error, and return a message about it without confidential details."""
    if isinstance(error, BundleError):
        _log.error("%s: %s", where, error)
        return str(error)
    if isinstance(error, ForecasterError | OSError):
        _log.error("%s: %s", where, error)
        return "it cannot be read, downloaded or written; see the log"
    _log.error("%s: unexpected %r", where, error, exc_info=error)
    return f"it cannot be used (unexpected {type(error).__name__}); see the log"


def _download(
    store: Store, cache: Path, name: str, version: int, limits: Limits, before: Refusal | None
) -> Refusal | None:
    """Download, verify and try a version, and move it into the cache; return its refusal if the trial refuses it."""
    target = bundle_folder(cache, name, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=DRAFT, dir=target.parent) as draft:
        folder = store.download(name, version, Path(draft))
        check_folder(folder)
        trial, now = f"{hash_folder(folder)}, {limits}", time.time()
        if before and before.trial == trial and 0 <= now - before.at < RETRY_AFTER_SECONDS:
            return before
        # tried before this process reads it: a small file may need much memory and time to parse
        (reason,) = check_bundles([folder], limits)
        if reason:
            _log.error("model %s version %s: %s", name, version, reason)
            return Refusal(reason, trial, now)
        bundle = read_bundle(folder)
        if bundle.manifest.name != name:
            raise BundleError(f"its manifest names the model {bundle.manifest.name[:100]!a}; register the model again")
        if target.is_dir() and not _is_intact(target):
            target.rename(Path(draft) / "damaged")
        try:
            folder.replace(target)
        except OSError:
            # another process has synced the same version in the meantime
            if not target.is_dir():
                raise
        mark_passed(target, identity(target))
    return None


def _is_intact(target: Path) -> bool:
    if not target.is_dir():
        return False
    try:
        read_bundle(target)
    except (BundleError, OSError):
        return False
    return True


def _remove_abandoned(cache: Path) -> None:
    """Remove half-finished downloads of killed syncs."""
    for draft in cache.glob(f"*/{DRAFT}*"):
        if time.time() - draft.stat().st_mtime > ABANDONED_AFTER_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)


def _remove_others(folder: Path, wanted: Iterable[int]) -> None:
    names = {str(version) for version in wanted}
    for path in folder.iterdir():
        if path.is_dir() and path.name.isdigit() and path.name not in names:
            remove_version(path)


def _remove_deleted(store: Store, file: Path, problems: list[str]) -> None:
    """Remove a model from the cache that the registry's list lacks, once a query for its name confirms that."""
    name = file.parent.name
    try:
        if not store.has(name):
            file.unlink()
            shutil.rmtree(file.parent)
    except (ForecasterError, OSError) as error:
        problems.append(f"model '{name}': {_log_and_explain(f'model {name}', error)}")


def main() -> int:
    """Run one sync; return 0 if all is up to date, 1 if the store does not answer, 3 if anything was refused.

    With 3, it prints `{"problems": [...]}`, without confidential details; the log on stderr has the details.
    """
    parser = argparse.ArgumentParser(prog="python -m forecaster.registry.sync", description=__doc__)
    parser.add_argument("--cache", required=True, type=Path, help="the service's cache folder")
    parser.add_argument("--allow-empty", action="store_true", help="let the cache lose everything that it serves")
    parser.add_argument("--trial-seconds", type=float, default=Limits.seconds, help="CPU time limit of a trial")
    parser.add_argument("--trial-memory-mb", type=int, default=Limits.memory_mb, help="memory limit of a trial")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    uri = os.environ.get("FORECASTER_TRACKING_URI") or parser.error("set FORECASTER_TRACKING_URI to MLflow's URI")
    limits = Limits(arguments.trial_seconds, arguments.trial_memory_mb)
    try:
        indexes, problems = sync_all(Store(uri), arguments.cache, limits, allow_empty=arguments.allow_empty)
    except ForecasterError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    if problems:
        sys.stdout.write(json.dumps({"problems": problems}) + "\n")
        return PARTLY_FAILED
    sys.stdout.write(json.dumps({name: index.aliases for name, index in indexes.items()}) + "\n")
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main())
