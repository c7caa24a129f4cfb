"""A registered version, found by alias or number, synced into the cache and loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from forecaster.domain.errors import BundleError, RequestError, UnknownModel
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, read_indexes
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.sandbox import limits_from_environment
from forecaster.registry.store import Store
from forecaster.registry.sync import sync_model

PredictorT = TypeVar("PredictorT", bound=ArrayPredictor)


@dataclass(frozen=True)
class Version(Generic[PredictorT]):
    """A loaded version: its number, the alias that it was found by (None if by number), and its MLflow run."""

    predictor: PredictorT
    number: int
    alias: str | None
    run_id: str


def load_version(
    name: str, alias: str | None, version: int | None, tracking_uri: str, cache: Path, kind: type[PredictorT]
) -> Version[PredictorT]:
    """Return a registered version, loaded as `kind`; the other arguments and errors are those of `load_predictor`."""
    if alias is not None and version is not None:
        raise RequestError("alias and version: give one of them, not both")
    index = _synced(name, tracking_uri, cache) if tracking_uri else _cached(name, cache)
    number = index.version_of(name, alias, version)
    found_by = alias or CHAMPION if version is None else None
    try:
        predictor = kind(read_bundle(bundle_folder(cache, name, number)))
    except BundleError as error:
        raise BundleError(f"model '{name}' version {number}: {error}") from error
    return Version(predictor, number, found_by, index.runs[number])


def _synced(name: str, tracking_uri: str, cache: Path) -> ModelIndex:
    """Sync the model and return its index; raise BundleError if an alias would point to its previous version."""
    store = Store(tracking_uri)
    model = store.find(name)
    index, problems = sync_model(store, cache, model, limits_from_environment())
    aliases = {alias: version for alias, version in model.aliases.items() if version in model.runs}
    if any(index.aliases.get(alias) != version for alias, version in aliases.items()):
        raise BundleError("; ".join(problems))
    return index


def _cached(name: str, cache: Path) -> ModelIndex:
    indexes = read_indexes(cache)
    if name not in indexes:
        raise UnknownModel(
            f"there is no model '{name}' in the cache {cache}, which has {sorted(indexes)}; set a tracking URI"
        )
    return indexes[name]
