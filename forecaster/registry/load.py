"""A registered model in Python: `load_predictor("sine")`."""

from dataclasses import dataclass
from pathlib import Path

from forecaster.database.uris import default_tracking_uri
from forecaster.domain.errors import BundleError, RequestError, UnknownModel
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, read_indexes
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import Store
from forecaster.registry.sync import bring_model
from forecaster.registry.trial import limits_from_environment


@dataclass(frozen=True)
class Version:
    """A registered version, loaded: its number, the alias that it was found by, if by one, and its MLflow run."""

    predictor: Predictor
    number: int
    alias: str | None
    run_id: str


def load_predictor(
    name: str,
    alias: str | None = None,
    version: int | None = None,
    tracking_uri: str | None = None,
    cache: Path = Path("mlruns/cache"),
) -> Predictor:
    """Return the predictor of a registered version, fetched into the cache if it is not there yet.

    Args:
        name: the registered model.
        alias: `champion` when neither alias nor version is given.
        version: instead of an alias.
        tracking_uri: where MLflow is. None follows `FORECASTER_TRACKING_URI`, and takes the local store where that is
            unset. An empty string looks in the cache alone.
        cache: the folder that verified bundles are kept in; the service may share it.

    Raises:
        RequestError: alias and version are both given.
        UnknownModel: there is no such model, alias or version, or the version is neither aliased nor among the newest.
        StoreUnavailable: MLflow does not answer.
        BundleError: a bundle cannot be trusted.
    """
    uri = default_tracking_uri() if tracking_uri is None else tracking_uri
    return load_version(name, alias, version, uri, cache).predictor


def load_version(name: str, alias: str | None, version: int | None, tracking_uri: str, cache: Path) -> Version:
    """Return a registered version; arguments and errors as `load_predictor` has them."""
    if alias is not None and version is not None:
        raise RequestError("alias and version: give one of them, not both")
    index = _synced(name, tracking_uri, cache) if tracking_uri else _cached(name, cache)
    number = index.version_of(name, alias, version)
    found_by = alias or CHAMPION if version is None else None
    try:
        predictor = Predictor(read_bundle(bundle_folder(cache, name, number)))
    except BundleError as error:
        raise BundleError(f"model '{name}' version {number}: {error}") from error
    return Version(predictor, number, found_by, index.runs[number])


def _synced(name: str, tracking_uri: str, cache: Path) -> ModelIndex:
    """Return what the registry has, as far as it could be brought: an alias never means the version before."""
    store = Store(tracking_uri)
    model = store.find(name)
    index, problems = bring_model(store, cache, model, limits_from_environment())
    aliases = {alias: version for alias, version in model.aliases.items() if version in model.runs}
    if any(index.aliases.get(alias) != version for alias, version in aliases.items()):
        raise BundleError("; ".join(problems))
    return index


def _cached(name: str, cache: Path) -> ModelIndex:
    indexes = read_indexes(cache)
    if name not in indexes:
        raise UnknownModel(f"there is no model '{name}' in {cache}; it has {sorted(indexes)}")
    return indexes[name]
