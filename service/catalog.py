"""The models being served: one immutable catalog, replaced by one assignment when the cache changes."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from forecaster.domain.errors import BundleError, UnknownModel
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import ModelIndex, bundle_folder, fingerprint, read_indexes
from forecaster.registry.predictor import Predictor
from service.metrics import Metrics
from service.settings import Settings

# how often the cache is looked at; looking is a few stat calls
WATCH_SECONDS = 0.5
_log = logging.getLogger("service")


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


def load_catalog(cache: Path, before: Catalog) -> tuple[Catalog, list[str]]:
    """Return what the cache holds, and what could not be loaded.

    Predictors already loaded are kept; where a version behind an alias cannot be loaded, the model stays as it was.
    """
    catalog, problems = {}, []
    for name, index in read_indexes(cache).items():
        old = before.get(name)
        predictors = dict(old.predictors) if old else {}
        for version in index.runs.keys() - predictors.keys():
            try:
                predictors[version] = Predictor(read_bundle(bundle_folder(cache, name, version)))
            except (BundleError, OSError) as error:
                _log.error("model '%s' version %s: %s", name, version, error)
                problems.append(f"model '{name}' version {version}: cannot be trusted or loaded; see the log")
        if old and not predictors.keys() >= set(index.aliases.values()):
            catalog[name] = old
        elif served := {version: predictors[version] for version in index.runs if version in predictors}:
            catalog[name] = Model(name, index.only(served), served)
    return catalog, problems


@dataclass
class Shelf:
    """Holds the catalog and keeps it up to date; only `watch` writes to it."""

    settings: Settings
    metrics: Metrics
    catalog: Catalog = field(default_factory=dict)
    _problems: dict[str, str | None] = field(default_factory=dict)
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
            if seen == self._seen:
                return
            catalog, problems = await asyncio.to_thread(load_catalog, self.settings.cache_dir, self.catalog)
        # whatever is wrong with a cache, what is served stays served, and the next change is looked at
        except Exception as error:
            _log.error("the cache cannot be loaded: %r", error)
            self._report("load", "the cache cannot be loaded; see the log")
            return
        self.catalog = catalog
        self._report("load", "; ".join(problems) or None)
        _log.info("serving %s", {name: dict(model.index.aliases) for name, model in catalog.items()})
        self._seen = seen

    async def _sync_now_and_then(self) -> None:
        while True:
            try:
                await self._sync()
            except OSError as error:
                _log.error("sync: the child cannot be started (%s)", error)
                self._report("sync", "sync: the child cannot be started; see the log")
            await asyncio.sleep(self.settings.refresh_seconds)

    async def _sync(self) -> None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forecaster.registry.sync", "--cache", str(self.settings.cache_dir)),
            # it may hold a password, and whoever is on the machine may see the arguments of a process
            env={**os.environ, "FORECASTER_TRACKING_URI": self.settings.tracking_uri},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await asyncio.wait_for(child.communicate(), self.settings.sync_timeout_seconds)
        except TimeoutError:
            self._report("sync", f"sync: no answer from MLflow within {self.settings.sync_timeout_seconds:g} s")
            return
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            lines = said.decode(errors="replace").strip().splitlines()
            _log.error("sync: %s", lines[-1] if lines else f"exit status {child.returncode}")
            # where MLflow is, is not everybody's affair
            self._report("sync", "sync: MLflow does not answer, or a version cannot be trusted; see the log")
        else:
            self._report("sync", None)

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
        return "; ".join(problem for problem in self._problems.values() if problem) or None

    def _report(self, where: str, problem: str | None) -> None:
        if problem and problem != self._problems.get(where):
            self.metrics.load_failures.labels(where).inc()
            _log.error("%s", problem)
        self._problems[where] = problem
