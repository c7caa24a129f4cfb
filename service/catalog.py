"""The served models: an immutable catalog, replaced as a whole when the cache changes."""

import asyncio
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from forecaster.domain.errors import BundleError, UnknownModel
from forecaster.domain.exits import PARTLY_FAILED, SUCCESS
from forecaster.registry.bundle import identity, read_bundle
from forecaster.registry.cache import (
    NO_INDEX,
    bundle_folder,
    fingerprint,
    has_passed,
    index_files,
    mark_passed,
    read_index,
)
from forecaster.registry.files import check_folder
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.sandbox import RETRY_AFTER_SECONDS, Limits, check_bundles
from service.metrics import Metrics
from service.served_model import Model
from service.settings import Settings

# interval between checks of the cache; a check costs a few stat calls
WATCH_SECONDS = 0.5
# limits on what readiness shows: problems, and characters of each
_MAX_PROBLEMS_SHOWN, _MAX_PROBLEM_CHARS = 10, 300
# lines of a sync process's stderr that are logged
_MAX_SYNC_LINES = 200
_PATH = re.compile(r"(?<![\w.])/[^\s'\"()]+")
_log = logging.getLogger("forecaster.service")


Catalog = Mapping[str, Model]


def find_model(catalog: Catalog, name: str) -> Model:
    """Return a served model by name.

    Raises:
        UnknownModel: no model of this name is served.
    """
    if name not in catalog:
        raise UnknownModel(f"there is no model '{name}'; there are {sorted(catalog)}")
    return catalog[name]


@dataclass
class CacheContents:
    """The contents of the cache: the catalog, problems, and bundles that must pass a trial before they are loaded.

    `untried` maps a bundle's folder to its identity; `aliased` holds the folders of versions that have an alias.
    """

    catalog: dict[str, Model] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    untried: dict[Path, str] = field(default_factory=dict)
    aliased: set[Path] = field(default_factory=set)

    @property
    def next_untried(self) -> dict[Path, str]:
        """Return the bundles to try next: those with an alias, or all if none of them has one."""
        return {folder: digest for folder, digest in self.untried.items() if folder in self.aliased} or self.untried


def load_catalog(cache: Path, before: Catalog, trials: Mapping[str, str | None]) -> CacheContents:
    """Load the cache.

    Loaded predictors are reused. If a version cannot be loaded, its aliases keep pointing at the previous version.

    Args:
        cache: the cache folder.
        before: the current catalog.
        trials: results of this process's trials: by bundle identity, the reason for refusal, or None if it passed.
    """
    loaded = CacheContents()
    for file in index_files(cache):
        name = file.parent.name
        old = before.get(name)
        try:
            index = read_index(file)
        except BundleError as error:
            loaded.problems.append(f"model '{name}': {error}")
            if old:
                loaded.catalog[name] = old
            continue
        loaded.aliased.update(bundle_folder(cache, name, version) for version in index.aliases.values())
        predictors = dict(old.predictors) if old else {}
        for version in sorted(index.runs.keys() - predictors.keys()):
            predictor = _load(bundle_folder(cache, name, version), f"model '{name}' version {version}", trials, loaded)
            if predictor:
                predictors[version] = predictor
        settled = index.keep_usable(predictors, old.index if old else NO_INDEX)
        if settled.runs:
            loaded.catalog[name] = Model(name, settled, {version: predictors[version] for version in settled.runs})
    return loaded


def _load(folder: Path, where: str, trials: Mapping[str, str | None], loaded: CacheContents) -> ArrayPredictor | None:
    """Return a version's predictor, or None after recording the reason in `loaded`."""
    try:
        check_folder(folder)
        digest = identity(folder)
        # only bundles that passed a trial are parsed in this process
        if has_passed(folder, digest) or (digest in trials and trials[digest] is None):
            return ArrayPredictor(read_bundle(folder))
        if refusal := trials.get(digest):
            raise BundleError(refusal)
        loaded.untried[folder] = digest
    except BundleError as error:
        loaded.problems.append(f"{where}: {error}")
    # one broken version must not keep the others from loading
    except Exception as error:
        _log.exception("%s cannot be loaded", where)
        loaded.problems.append(f"{where}: cannot be loaded (unexpected {type(error).__name__}); see the log")
    return None


@dataclass
class ModelStore:
    """Keeps the catalog up to date. Only `watch` changes it."""

    settings: Settings
    metrics: Metrics
    catalog: Catalog = field(default_factory=dict)
    _problems: dict[str, list[str]] = field(default_factory=dict)
    _trials: dict[str, str | None] = field(default_factory=dict)
    _try_again_at: float = math.inf
    _seen: tuple[tuple[str, int], ...] = ()

    async def watch(self) -> None:
        """Reload the cache when it changes and sync it with MLflow periodically, until cancelled."""
        await self._reload()
        syncing = asyncio.create_task(self._sync_periodically()) if self.settings.tracking_uri else None
        try:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                await self._reload()
        finally:
            if syncing:
                syncing.cancel()
                with suppress(asyncio.CancelledError):
                    await syncing

    async def _reload(self) -> None:
        try:
            seen = fingerprint(self.settings.cache_dir)
            is_retry_due = time.monotonic() >= self._try_again_at
            if seen == self._seen and not is_retry_due:
                return
            if is_retry_due:
                self._trials = {digest: refusal for digest, refusal in self._trials.items() if refusal is None}
                self._try_again_at = math.inf
            # serve bundles that passed their trial before trying others
            while untried := await self._load():
                await asyncio.to_thread(self._try, untried)
        # the current catalog stays in use, and the next change is loaded
        except Exception as error:
            _log.error("the cache cannot be loaded: %r", error)
            self._report("load", ["the cache cannot be loaded; see the log"])
            return
        self._seen = seen

    async def _load(self) -> Mapping[Path, str]:
        """Load the cache into the catalog; return the bundles to try next."""
        loaded = await asyncio.to_thread(load_catalog, self.settings.cache_dir, self.catalog, self._trials)
        self.catalog = loaded.catalog
        self._report("load", loaded.problems)
        _log.info("serving %s", {name: dict(model.index.aliases) for name, model in loaded.catalog.items()})
        return loaded.next_untried

    def _try(self, untried: Mapping[Path, str]) -> None:
        """Try bundles that no sync has tried: those copied into the cache by hand, or written by an older release."""
        for (folder, digest), refusal in zip(untried.items(), check_bundles(list(untried), self._limits), strict=True):
            self._trials[digest] = refusal
            if refusal is None:
                # if the cache is read-only, the next process repeats the trial
                with suppress(OSError):
                    mark_passed(folder, digest)
            else:
                # the trial may have failed because the machine was short of resources
                self._try_again_at = min(self._try_again_at, time.monotonic() + RETRY_AFTER_SECONDS)

    @property
    def _limits(self) -> Limits:
        return Limits(self.settings.trial_seconds, self.settings.trial_memory_mb)

    async def _sync_periodically(self) -> None:
        while True:
            try:
                problems = await self._sync()
            # the next sync may succeed
            except Exception as error:
                _log.error("sync: the sync process cannot be started, or its output cannot be read (%r)", error)
                problems = ["sync: the sync process cannot be started, or its output cannot be read; see the log"]
            self._report("sync", problems)
            await asyncio.sleep(self.settings.refresh_seconds)

    async def _sync(self) -> list[str]:
        """Run a sync process; return its problems."""
        limits, seconds = self._limits, self.settings.sync_timeout_seconds
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forecaster.registry.sync", "--cache", str(self.settings.cache_dir)),
            *("--trial-seconds", str(limits.seconds), "--trial-memory-mb", str(limits.memory_mb)),
            # by environment: the URI may hold a password, and every user of the machine can see arguments
            env={**os.environ, "FORECASTER_TRACKING_URI": self.settings.tracking_uri},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(child.communicate(), seconds)
        except TimeoutError:
            return [f"sync: timed out after {seconds:g} s; MLflow or the trial of a version takes too long"]
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode == SUCCESS:
            return []
        for line in err.decode(errors="replace").strip().splitlines()[-_MAX_SYNC_LINES:]:
            _log.error("sync: %s", line)
        if child.returncode == PARTLY_FAILED:
            return [f"sync: {problem}" for problem in json.loads(out)["problems"]]
        # readiness is public, so it must not show MLflow's address
        return [f"sync: MLflow does not answer (exit status {child.returncode}); see the log"]

    def update_version_gauges(self) -> None:
        """Set the gauges of the version behind each alias and its age."""
        now = datetime.now(UTC)
        for gauge in (self.metrics.version, self.metrics.age):
            gauge.clear()
        for name, model in self.catalog.items():
            for alias, version in model.index.aliases.items():
                created = datetime.fromisoformat(model.predictors[version].manifest.created_at)
                self.metrics.version.labels(name, alias).set(version)
                self.metrics.age.labels(name, alias).set((now - created).total_seconds())

    @property
    def last_problem(self) -> str | None:
        """Return the current problems of the cache and the sync, None if there are none."""
        problems = [problem for reported in self._problems.values() for problem in reported]
        shown = [_public(problem) for problem in problems[:_MAX_PROBLEMS_SHOWN]]
        if len(problems) > _MAX_PROBLEMS_SHOWN:
            shown.append(f"and {len(problems) - _MAX_PROBLEMS_SHOWN} more; see the log")
        return "; ".join(shown) or None

    def _report(self, where: str, problems: list[str]) -> None:
        before = self._problems.get(where, [])
        new = [problem for problem in problems if problem not in before]
        for problem in new:
            self.metrics.load_failures.labels(where).inc()
            _log.error("%s", problem)
        # newest first, because only some are shown
        self._problems[where] = new + [problem for problem in before if problem in problems]


def _public(problem: str) -> str:
    """Return a problem for public readiness: one line, without paths or unprintable characters."""
    line = " ".join(_PATH.sub("…", problem).split())
    text = "".join(character if character.isprintable() else "?" for character in line)
    return text if len(text) <= _MAX_PROBLEM_CHARS else f"{text[:_MAX_PROBLEM_CHARS]}…"
