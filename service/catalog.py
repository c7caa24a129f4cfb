"""The models being served: one immutable catalog, replaced by one assignment when the cache changes."""

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
    ModelIndex,
    bundle_folder,
    fingerprint,
    has_passed,
    index_files,
    mark_passed,
    read_index,
)
from forecaster.registry.files import check_folder
from forecaster.registry.predictor import Predictor
from forecaster.registry.sandbox import RETRY_AFTER_SECONDS, Limits, check_bundles
from service.metrics import Metrics
from service.settings import Settings

# how often the cache is looked at; looking is a few stat calls
WATCH_SECONDS = 0.5
# of problems that are shown, characters of each, and lines of a sync child's log
_MOST_SHOWN, _MOST_TEXT, _MOST_LINES = 10, 300, 200
_PATH = re.compile(r"(?<![\w.])/[^\s'\"()]+")
_log = logging.getLogger("forecaster.service")


@dataclass(frozen=True)
class Model:
    """A served model: its aliases and runs, and each version's predictor."""

    name: str
    index: ModelIndex
    predictors: Mapping[int, Predictor]


Catalog = Mapping[str, Model]


def find_model(catalog: Catalog, name: str) -> Model:
    """Return a served model by name.

    Raises:
        UnknownModel: it is not served.
    """
    if name not in catalog:
        raise UnknownModel(f"there is no model '{name}'; there are {sorted(catalog)}")
    return catalog[name]


@dataclass
class Loaded:
    """What the cache holds: the catalog, what could not be loaded, and the bundles that must be tried before they are.

    `untried` has each one's identity by its folder; `aliased` are the folders that an alias leads to.
    """

    catalog: dict[str, Model] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    untried: dict[Path, str] = field(default_factory=dict)
    aliased: set[Path] = field(default_factory=set)

    @property
    def next_untried(self) -> dict[Path, str]:
        """Return the bundles to try first: those that an alias leads to, and the others once there are none."""
        return {folder: digest for folder, digest in self.untried.items() if folder in self.aliased} or self.untried


def load_catalog(cache: Path, before: Catalog, trials: Mapping[str, str | None]) -> Loaded:
    """Return what the cache holds.

    Predictors already loaded are kept; where a version cannot be loaded, its aliases stay where they were.

    Args:
        cache: the cache's folder.
        before: the catalog so far.
        trials: by the identity of a bundle that this process had tried, why it is refused, None if it is not.
    """
    loaded = Loaded()
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


def _load(folder: Path, where: str, trials: Mapping[str, str | None], loaded: Loaded) -> Predictor | None:
    """Return a version's predictor; where there is none yet, `loaded` is told why."""
    try:
        check_folder(folder)
        digest = identity(folder)
        # nothing is parsed here that has not been parsed in a trial
        if has_passed(folder, digest) or (digest in trials and trials[digest] is None):
            return Predictor(read_bundle(folder))
        if refusal := trials.get(digest):
            raise BundleError(refusal)
        loaded.untried[folder] = digest
    except BundleError as error:
        loaded.problems.append(f"{where}: {error}")
    # whatever is wrong with a version, the others are loaded
    except Exception as error:
        _log.exception("%s cannot be loaded", where)
        loaded.problems.append(f"{where}: cannot be loaded (unexpected {type(error).__name__}); see the log")
    return None


@dataclass
class ModelStore:
    """Holds the catalog and keeps it up to date; only `watch` writes to it."""

    settings: Settings
    metrics: Metrics
    catalog: Catalog = field(default_factory=dict)
    _problems: dict[str, list[str]] = field(default_factory=dict)
    _trials: dict[str, str | None] = field(default_factory=dict)
    _try_again_at: float = math.inf
    _seen: tuple[tuple[str, int], ...] = ()

    async def watch(self) -> None:
        """Load what the cache holds whenever it changes, and start a sync child now and then, until cancelled."""
        await self._reload()
        syncing = asyncio.create_task(self._sync_now_and_then()) if self.settings.tracking_uri else None
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
            is_time = time.monotonic() >= self._try_again_at
            if seen == self._seen and not is_time:
                return
            if is_time:
                self._trials = {digest: refusal for digest, refusal in self._trials.items() if refusal is None}
                self._try_again_at = math.inf
            # what has passed its trial is served before anything else is tried
            while untried := await self._load():
                await asyncio.to_thread(self._try, untried)
        # whatever is wrong with a cache, what is served stays served, and the next change is looked at
        except Exception as error:
            _log.error("the cache cannot be loaded: %r", error)
            self._report("load", ["the cache cannot be loaded; see the log"])
            return
        self._seen = seen

    async def _load(self) -> Mapping[Path, str]:
        """Serve what the cache holds; return the bundles that must be tried next before they are served."""
        loaded = await asyncio.to_thread(load_catalog, self.settings.cache_dir, self.catalog, self._trials)
        self.catalog = loaded.catalog
        self._report("load", loaded.problems)
        _log.info("serving %s", {name: dict(model.index.aliases) for name, model in loaded.catalog.items()})
        return loaded.next_untried

    def _try(self, untried: Mapping[Path, str]) -> None:
        """Try bundles that came into the cache by another way than a sync: by hand, or from an older program."""
        for (folder, digest), refusal in zip(untried.items(), check_bundles(list(untried), self._limits), strict=True):
            self._trials[digest] = refusal
            if refusal is None:
                # a cache that cannot be written is tried again by the next process
                with suppress(OSError):
                    mark_passed(folder, digest)
            else:
                # what ended it may have been the machine's state, as for a sync
                self._try_again_at = min(self._try_again_at, time.monotonic() + RETRY_AFTER_SECONDS)

    @property
    def _limits(self) -> Limits:
        return Limits(self.settings.trial_seconds, self.settings.trial_memory_mb)

    async def _sync_now_and_then(self) -> None:
        while True:
            try:
                problems = await self._sync()
            # the next one may do better
            except Exception as error:
                _log.error("sync: the child cannot be started or understood (%r)", error)
                problems = ["sync: the child cannot be started or understood; see the log"]
            self._report("sync", problems)
            await asyncio.sleep(self.settings.refresh_seconds)

    async def _sync(self) -> list[str]:
        """Run a sync child; return what failed."""
        limits, seconds = self._limits, self.settings.sync_timeout_seconds
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forecaster.registry.sync", "--cache", str(self.settings.cache_dir)),
            *("--trial-seconds", str(limits.seconds), "--trial-memory-mb", str(limits.memory_mb)),
            # it may hold a password, and whoever is on the machine may see the arguments of a process
            env={**os.environ, "FORECASTER_TRACKING_URI": self.settings.tracking_uri},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, said = await asyncio.wait_for(child.communicate(), seconds)
        except TimeoutError:
            return [f"sync: no end within {seconds:g} s; MLflow or the trial of a version takes too long"]
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode == SUCCESS:
            return []
        for line in said.decode(errors="replace").strip().splitlines()[-_MOST_LINES:]:
            _log.error("sync: %s", line)
        if child.returncode == PARTLY_FAILED:
            return [f"sync: {problem}" for problem in json.loads(out)["problems"]]
        # where MLflow is, is not everybody's affair
        return [f"sync: MLflow does not answer (exit status {child.returncode}); see the log"]

    def tell_ages(self) -> None:
        """Tell the metrics which version is behind each alias, and how old it is."""
        now = datetime.now(UTC)
        for gauge in (self.metrics.version, self.metrics.age):
            gauge.clear()
        for name, model in self.catalog.items():
            for alias, version in model.index.aliases.items():
                made = datetime.fromisoformat(model.predictors[version].manifest.created_at)
                self.metrics.version.labels(name, alias).set(version)
                self.metrics.age.labels(name, alias).set((now - made).total_seconds())

    @property
    def last_problem(self) -> str | None:
        """Return what is wrong with the cache's models and with the sync, None if nothing is."""
        problems = [problem for reported in self._problems.values() for problem in reported]
        shown = [_short(problem) for problem in problems[:_MOST_SHOWN]]
        further = [f"and {len(problems) - _MOST_SHOWN} more; see the log"] * (len(problems) > _MOST_SHOWN)
        return "; ".join(shown + further) or None

    def _report(self, where: str, problems: list[str]) -> None:
        before = self._problems.get(where, [])
        new = [problem for problem in problems if problem not in before]
        for problem in new:
            self.metrics.load_failures.labels(where).inc()
            _log.error("%s", problem)
        # the latest first, for not all are shown
        self._problems[where] = new + [problem for problem in before if problem in problems]


def _short(problem: str) -> str:
    """Return a problem as anybody may see it: one line, without paths and without what a bundle put into its names."""
    text = "".join(one if one.isprintable() else "?" for one in " ".join(_PATH.sub("…", problem).split()))
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"
