"""The sync child: asks MLflow which versions count, and brings them, verified, into the service's cache.

A process of its own, because MLflow is heavy and the serving process must stay lean:

    FORECASTER_TRACKING_URI=sqlite:///mlruns/mlflow.db python -m forecaster.registry.sync --cache mlruns/cache

A version that fails, in whatever way, is reported and stops no other; its alias stays where it was. What failed is
noted, so that it comes last the next time, and the same bundle is not tried again for an hour.

The URI may hold a password, and anybody on the machine may list the arguments of a command, so it is no argument.
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
    ServiceError,
    bundle_folder,
    index_files,
    mark_tried,
    read_index,
    read_refusals,
    remove_version,
    write_index,
    write_refusals,
)
from forecaster.registry.files import check_folder, hash_folder
from forecaster.registry.store import RegisteredModel, Store
from forecaster.registry.trial import TRIED_AGAIN_AFTER_SECONDS, Limits, try_bundles

# versions without an alias stay available by number, the newest of them
NEWEST_KEPT = 3
DRAFT = ".fetch-"
# no child lives as long
ABANDONED_AFTER_SECONDS = 3600
_LIMITS = Limits()
_log = logging.getLogger("forecaster.sync")


def sync(store: Store, cache: Path, limits: Limits = _LIMITS) -> dict[str, ModelIndex]:
    """Bring the cache up to date with the registry, as `bring_all` does.

    Returns:
        the index of each model, where nothing failed.

    Raises:
        StoreUnavailable: the store does not answer.
        BundleError: a model or a version is refused; all else is up to date.
    """
    indexes, problems = bring_all(store, cache, limits)
    if problems:
        raise BundleError("; ".join(problems))
    return indexes


def bring_all(
    store: Store, cache: Path, limits: Limits, *, allow_empty: bool = False
) -> tuple[dict[str, ModelIndex], list[str]]:
    """Bring the cache up to date with the registry.

    Args:
        store: where to ask.
        cache: the cache's folder; made if missing.
        limits: of each new version's trial.
        allow_empty: whether the cache may lose everything that it serves at once.

    Returns:
        the index of each model that was brought, and what failed, in words that anybody may read.

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
            f"the registry no longer has what is served ({len(lost)} models), and was perhaps emptied or replaced; the "
            "cache is kept. If they may go: python -m forecaster.registry.sync --allow-empty"
        )
    # what failed before holds nothing up
    for model in sorted(models, key=lambda one: bool(read_refusals(cache, one.name))):
        if model.name in lost:
            continue
        try:
            indexes[model.name], refused = bring_model(store, cache, model, limits)
            problems += refused
        # the cache may have something of its own where a model is due
        except Exception as error:
            problems.append(f"model '{model.name}': {_explained(f'model {model.name}', error)}")
    for file in index_files(cache):
        if file.parent.name not in {*names, *lost}:
            _remove_deleted(store, file, problems)
    return indexes, problems


def bring_model(
    store: Store, cache: Path, model: RegisteredModel, limits: Limits = _LIMITS
) -> tuple[ModelIndex, list[str]]:
    """Bring a model's versions; return its index, and why versions are refused."""
    aliases = {alias: version for alias, version in model.aliases.items() if version in model.runs}
    wanted = {*aliases.values(), *sorted(model.runs)[-NEWEST_KEPT:]}
    refusals = {version: one for version, one in read_refusals(cache, model.name).items() if version in wanted}
    usable, problems = set(), []
    for version in sorted(wanted, key=lambda one: (one in refusals, one)):
        refusal = _bring(store, cache, model.name, version, limits, refusals)
        if refusal is None:
            usable.add(version)
        else:
            problems.append(f"model '{model.name}' version {version}: {refusal.reason}")
    write_refusals(cache, model.name, refusals)
    before = _cached(cache, model.name).get(model.name, NO_INDEX)
    index = ModelIndex(aliases, {version: model.runs[version] for version in sorted(wanted)}).settled(usable, before)
    (cache / model.name).mkdir(parents=True, exist_ok=True)
    write_index(cache, model.name, index)
    _remove_others(cache / model.name, index.runs)
    return index, problems


def _read_all(store: Store, names: Iterable[str], problems: list[str]) -> list[RegisteredModel]:
    """Return the models that can be read and served; what cannot is added to `problems`."""
    models = []
    for name in names:
        if not NAME.fullmatch(name):
            problems.append(f"model {name[:100]!a}: its name cannot be served; use letters, digits, '.', '_' and '-'")
            continue
        try:
            models.append(store.read(name))
        # an entry can be wrong in ways that nobody has thought of, and the others still count
        except Exception as error:
            problems.append(f"model '{name}': {_explained(f'model {name}', error)}")
    return models


def _cached(cache: Path, name: str = "*") -> dict[str, ModelIndex]:
    """Return the cache's indexes; one that cannot be read is written anew."""
    found = {}
    for file in cache.glob(f"{name}/{INDEX}"):
        with suppress(BundleError):
            found[file.parent.name] = read_index(file)
    return found


def _lost(cached: Mapping[str, ModelIndex], names: Iterable[str], models: Iterable[RegisteredModel]) -> frozenset[str]:
    """Return the cache's models if each one has lost all its versions or all its aliases: nothing would be served."""
    read = {model.name: model for model in models}
    # what is there and cannot be read is not lost
    unread = set(names) - read.keys()
    served = {name: index for name, index in cached.items() if index.runs}
    for name, index in served.items():
        model = read.get(name)
        is_left = name in unread if model is None else model.runs and (model.aliases or not index.aliases)
        if is_left:
            return frozenset()
    return frozenset(served)


def _bring(
    store: Store, cache: Path, name: str, version: int, limits: Limits, refusals: dict[int, ServiceError]
) -> ServiceError | None:
    """Have a version in the cache, or return why not; `refusals` are kept up to date, and written before it is tried.

    Killed meanwhile, as where time is up, it is behind the others the next time.
    """
    if _is_whole(bundle_folder(cache, name, version)):
        refusals.pop(version, None)
        return None
    before = refusals.get(version)
    if before is None:
        write_refusals(cache, name, {**refusals, version: ServiceError("it could not be fetched and tried in time")})
    try:
        refusal = _fetch(store, cache, name, version, limits, before)
    # whatever is wrong with a version, the others are brought
    except Exception as error:
        refusal = ServiceError(_explained(f"model {name} version {version}", error))
    if refusal is None:
        refusals.pop(version, None)
    else:
        refusals[version] = refusal
    return refusal


def _explained(where: str, error: Exception) -> str:
    """Log all of an error; return what anybody may read of it."""
    if isinstance(error, BundleError):
        _log.error("%s: %s", where, error)
        return str(error)
    if isinstance(error, ForecasterError | OSError):
        _log.error("%s: %s", where, error)
        return "it cannot be read, fetched or written; see the log"
    _log.error("%s: unexpected %r", where, error, exc_info=error)
    return f"it cannot be used (unexpected {type(error).__name__}); see the log"


def _fetch(
    store: Store, cache: Path, name: str, version: int, limits: Limits, before: ServiceError | None
) -> ServiceError | None:
    """Download, verify and try a version, and move it into the cache; return why its trial refuses it."""
    target = bundle_folder(cache, name, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=DRAFT, dir=target.parent) as draft:
        folder = store.download(name, version, Path(draft))
        check_folder(folder)
        trial, now = f"{hash_folder(folder)}, {limits}", time.time()
        if before and before.trial == trial and 0 <= now - before.at < TRIED_AGAIN_AFTER_SECONDS:
            return before
        # before this process reads it: a small file can take much memory and time to parse
        (reason,) = try_bundles([folder], limits)
        if reason:
            _log.error("model %s version %s: %s", name, version, reason)
            return ServiceError(reason, trial, now)
        bundle = read_bundle(folder)
        if bundle.manifest.name != name:
            raise BundleError(f"its manifest is of model {bundle.manifest.name[:100]!a}")
        if target.is_dir() and not _is_whole(target):
            target.rename(Path(draft) / "damaged")
        try:
            folder.replace(target)
        except OSError:
            # another process has brought the same version meanwhile
            if not target.is_dir():
                raise
        mark_tried(target, identity(target))
    return None


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


def _remove_others(folder: Path, wanted: Iterable[int]) -> None:
    names = {str(version) for version in wanted}
    for path in folder.iterdir():
        if path.is_dir() and path.name.isdigit() and path.name not in names:
            remove_version(path)


def _remove_deleted(store: Store, file: Path, problems: list[str]) -> None:
    """Remove a model that the registry's list lacks from the cache, if it says so when asked for that one."""
    name = file.parent.name
    try:
        if not store.has(name):
            file.unlink()
            shutil.rmtree(file.parent)
    except (ForecasterError, OSError) as error:
        problems.append(f"model '{name}': {_explained(f'model {name}', error)}")


def main() -> int:
    """Run one sync; 0 when all is up to date, 1 where the store does not answer, 3 where something was refused.

    With 3, standard output is `{"problems": [...]}`, in words that anybody may read; the log is on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m forecaster.registry.sync", description=__doc__)
    parser.add_argument("--cache", required=True, type=Path, help="the service's cache folder")
    parser.add_argument("--allow-empty", action="store_true", help="let the cache lose all that it serves")
    parser.add_argument("--trial-seconds", type=float, default=Limits.seconds, help="processor time of a trial")
    parser.add_argument("--trial-memory-mb", type=int, default=Limits.memory_mb, help="memory of a trial")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    uri = os.environ.get("FORECASTER_TRACKING_URI") or parser.error("set FORECASTER_TRACKING_URI: where MLflow is")
    limits = Limits(arguments.trial_seconds, arguments.trial_memory_mb)
    try:
        indexes, problems = bring_all(Store(uri), arguments.cache, limits, allow_empty=arguments.allow_empty)
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
